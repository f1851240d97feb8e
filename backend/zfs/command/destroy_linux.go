package command

import (
	"context"
	_ "embed" // the channel program
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend/zfs/device"
)

// removal is a channel program (zfs-program(8), since OpenZFS 0.8).
//
//go:embed remove.lua
var removal string

// Outcome tells why a dataset was not destroyed. The keys of the maps are names.
type Outcome struct {
	Children map[string]any `json:"children"` // datasets below it
	Clones   map[string]any `json:"clones"`   // others' datasets that are made of its snapshots
	Held     map[string]any `json:"held"`     // snapshots
	Errno    int            `json:"errno"`    // of the last step, 0 if it was destroyed
}

// Destroy destroys a dataset and its snapshots in one transaction, or nothing. owner is the store that its clones have to
// belong to: they take over the snapshots that they are made of.
func Destroy(ctx context.Context, dataset, owner string) (Outcome, error) {
	out, err := feed(ctx, strings.NewReader(removal), "zfs", "program", "-j", device.PoolName(dataset), "-", dataset, owner)
	if err != nil {
		return Outcome{}, err
	}
	var answer struct{ Return Outcome }
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		return Outcome{}, fmt.Errorf("answer of zfs program: %w: %w", err, errdefs.ErrInternal)
	}
	return answer.Return, nil
}
