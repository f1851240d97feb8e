package records

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"strata/backend"
)

// State is where a layer is in its life.
type State string

// A layer is made (creating), usable (ready), perhaps filled from a tar (applying, then ready
// again), and removed (removing). At Open, layers in any state but ready are removed.
const (
	StateCreating State = "creating"
	StateReady    State = "ready"
	StateApplying State = "applying"
	StateRemoving State = "removing"
)

// Applied describes the tar that filled a layer.
type Applied struct {
	Size   int64  `json:"size"`   // sum of the file sizes in it, bytes: what Apply returned
	Bytes  int64  `json:"bytes"`  // length of the tar, bytes
	Digest string `json:"digest"` // sha256:... of the tar (Docker's DiffID)
	Exact  bool   `json:"exact"`  // the tar can be given back byte for byte
}

// Record is what the file of one layer says. Its JSON names are part of the on-disk format (package store).
type Record struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Parent   string            `json:"parent,omitempty"`   // ID
	Replaces string            `json:"replaces,omitempty"` // ID
	State    State             `json:"state"`
	Sealed   bool              `json:"sealed,omitempty"`
	Detached bool              `json:"detached,omitempty"`
	Draft    bool              `json:"draft,omitempty"`
	Link     bool              `json:"link,omitempty"`
	Lent     bool              `json:"lent,omitempty"`
	Created  time.Time         `json:"created"`
	Limit    int64             `json:"limit,omitempty"`
	Label    string            `json:"label,omitempty"`
	IDMap    *backend.IDMap    `json:"idmap,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Applied  *Applied          `json:"applied,omitempty"`
}

// check refuses a record that is whole and not one of the layer with that ID, or not of this version's. ErrFailedPrecondition.
func (r *Record) check(id string) error {
	switch r.State {
	case StateCreating, StateReady, StateApplying, StateRemoving:
	default:
		return fmt.Errorf("it has the state %.64q, which this version of strata does not know: %w", r.State, errdefs.ErrFailedPrecondition)
	}
	switch {
	case r.ID != id:
		return fmt.Errorf("it describes layer %.120q: %w", r.ID, errdefs.ErrFailedPrecondition)
	case r.Link && r.Parent == "":
		return fmt.Errorf("it describes another name of no layer: %w", errdefs.ErrFailedPrecondition)
	case r.Replaces == r.ID:
		return fmt.Errorf("it describes a layer in the place of itself: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// CheckName refuses names that no client can mean: 1 to 255 bytes of printable UTF-8.
func CheckName(name string) error {
	ok := name != "" && len(name) <= 255 && utf8.ValidString(name)
	for _, r := range name {
		ok = ok && unicode.IsPrint(r)
	}
	if !ok {
		return fmt.Errorf("layer name %.64q: %w: want 1 to 255 bytes of printable UTF-8", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// maxRecord is how long a record may be, in bytes: twice the longest message that containerd takes, which has its labels.
const maxRecord = 32 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode returns v as one line of JSON and one line with the CRC-32C of the first, in hex.
func encode(v any) ([]byte, error) {
	line, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	line = append(line, '\n')
	return fmt.Appendf(line, "%08x\n", crc32.Checksum(line, castagnoli)), nil
}

// decode is the reverse of encode. ErrDataLoss if the text is not what encode wrote.
func decode(text []byte, v any) error {
	line, sum, ok := bytes.Cut(text, []byte{'\n'})
	if !ok {
		return fmt.Errorf("no complete line: %w", errdefs.ErrDataLoss)
	}
	want := fmt.Sprintf("%08x\n", crc32.Checksum(text[:len(line)+1], castagnoli))
	if string(sum) != want {
		return fmt.Errorf("checksum does not match: %w", errdefs.ErrDataLoss)
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	}
	return nil
}
