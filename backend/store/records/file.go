package records

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"

	"strata/backend/internal/failpoint"
	"strata/backend/internal/tree"
	"strata/backend/regular"
)

// Syncer makes a file durable whose text has just been written. nil leaves that to the kernel.
type Syncer func(path string) error

// SyncFile makes a file durable.
func SyncFile(path string) error { return tree.Sync(path) }

// WriteFile replaces path by what encode makes of v. After a crash path holds the old or the new
// text, whole; if synced the new one survives a power cut once its directory is synced, too.
func WriteFile(path string, v any, sync Syncer) error {
	if err := regular.Replace(path, func(tmp string) error { return writeText(tmp, v, sync) }); err != nil {
		return fmt.Errorf("write %s: %w", path, err) // the next Open sweeps what stays
	}
	return failpoint.Hit("store.record.renamed")
}

// writeText makes the file at path hold what encode makes of v.
func writeText(path string, v any, sync Syncer) error {
	text, err := encode(v)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if len(text) > maxRecord {
		return fmt.Errorf("a record of %d bytes, at most %d: %w", len(text), maxRecord, errdefs.ErrInvalidArgument)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	if sync != nil {
		if err := sync(path); err != nil {
			return err
		}
	}
	return failpoint.Hit("store.record.written")
}

// ReadFile reads what WriteFile wrote. ErrDataLoss if the text is not that.
func ReadFile(path string, v any) error {
	text, err := regular.ReadOwn(path, maxRecord)
	if err != nil {
		return err
	}
	return decodeFile(path, text, v)
}

func decodeFile(path string, text []byte, v any) error {
	if err := decode(text, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}
