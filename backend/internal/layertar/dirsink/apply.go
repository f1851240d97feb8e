package dirsink

import (
	"context"
	"fmt"
	"io"

	"strata/backend"
	"strata/backend/internal/layertar/unpack"
)

// Apply unpacks a layer tar into dir. Of p, Literal, Marks and IDMap follow from o.
func Apply(ctx context.Context, dir string, r io.Reader, o Options, p unpack.Options) (unpack.Result, error) {
	if o.Marks == backend.WhiteoutsNone {
		o.Marks = o.Whiteouts
	}
	p.Literal, p.Marks, p.IDMap = o.Whiteouts == backend.WhiteoutsAUFS, o.Marks, o.IDMap
	res, err := unpack.Apply(ctx, New(dir, o), r, p)
	if err != nil {
		return res, fmt.Errorf("fill %s: %w", dir, err)
	}
	return res, nil
}
