package command

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strata/backend/internal/run"
)

// Properties returns the values of a dataset's properties, numbers in full and "-" for none. ErrNotFound if there is no
// such dataset.
func Properties(ctx context.Context, dataset string, names ...string) ([]string, error) {
	out, err := Run(ctx, "zfs", "get", "-Hp", "-o", "value", strings.Join(names, ","), dataset)
	if run.Said(err, "dataset does not exist") {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	values := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if len(values) != len(names) {
		return nil, fmt.Errorf("zfs get %s of %s: %d values for %d properties: %w", strings.Join(names, ","), dataset, len(values), len(names), errdefs.ErrInternal)
	}
	return values, nil
}

// Number returns the value of a property that counts something. ErrNotFound if it has none.
func Number(ctx context.Context, dataset, property string) (int64, error) {
	values, err := Properties(ctx, dataset, property)
	if err != nil {
		return 0, err
	}
	if values[0] == "-" {
		return 0, fmt.Errorf("%s has no %s: %w", dataset, property, errdefs.ErrNotFound)
	}
	n, err := strconv.ParseInt(values[0], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("property %s of %s is %q: %w", property, dataset, values[0], errdefs.ErrInternal)
	}
	return n, nil
}

// Row is one line of a list: a dataset or snapshot with some of its properties, "-" for none.
type Row struct {
	Name, Type, Origin, Mountpoint, Mounted, Clones string
	Owner                                           string // the property that List was asked for
	Created                                         time.Time
}

// List returns what of some kinds ("filesystem,snapshot") lies below a dataset, down to a depth.
func List(ctx context.Context, parent, kinds string, depth int, owner string) ([]Row, error) {
	columns := "name,type,origin,mountpoint,mounted," + owner + ",clones,creation"
	out, err := Run(ctx, "zfs", "list", "-Hp", "-t", kinds, "-d", fmt.Sprint(depth), "-o", columns, parent)
	if err != nil {
		return nil, err
	}
	var rows []Row
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 8 {
			return nil, fmt.Errorf("zfs list: line %q has %d columns: %w", line, len(f), errdefs.ErrInternal)
		}
		if f[0] == parent || strings.HasPrefix(f[0], parent+"@") {
			continue
		}
		var seconds int64
		if _, err := fmt.Sscan(f[7], &seconds); err != nil {
			return nil, fmt.Errorf("zfs list: time of creation %q: %w", f[7], errdefs.ErrInternal)
		}
		rows = append(rows, Row{Name: f[0], Type: f[1], Origin: f[2], Mountpoint: f[3], Mounted: f[4], Owner: f[5], Clones: f[6], Created: time.Unix(seconds, 0)})
	}
	return rows, nil
}

// Base returns the last part of a dataset's name.
func (r Row) Base() string { return r.Name[strings.LastIndexByte(r.Name, '/')+1:] }
