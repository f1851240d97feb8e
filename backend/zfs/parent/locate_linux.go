package parent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend/internal/mount"
	"strata/backend/regular"
	"strata/backend/zfs/command"
)

// note is what the file dataset in Home says: the parent dataset's name, and its guid, by which it is known again
// when it has been renamed.
type note struct{ name, guid string }

const noteFile = "dataset"

// readNote returns the note in a home. An os.ErrNotExist if there is none.
func readNote(home string) (note, error) {
	text, err := os.ReadFile(filepath.Join(home, noteFile))
	if err != nil {
		return note{}, err
	}
	name, guid, ok := strings.Cut(strings.TrimSuffix(string(text), "\n"), "\n")
	if !ok || !IsName(name) || guid == "" {
		return note{}, fmt.Errorf("%s: want the name and the guid of a dataset, a line each: %w", filepath.Join(home, noteFile), errdefs.ErrDataLoss)
	}
	return note{name, guid}, nil
}

// Noted returns the dataset that the note in a home names. An os.ErrNotExist if there is none, ErrDataLoss for a damaged one.
func Noted(home string) (dataset string, err error) {
	n, err := readNote(home)
	return n.name, err
}

// writeNote replaces the note, durably.
func writeNote(home string, n note) error {
	return regular.ReplaceDurably(filepath.Join(home, noteFile), fmt.Appendf(nil, "%s\n%s\n", n.name, n.guid))
}

// Locate finds the parent dataset: the one that the store was made with, else the wanted one, else that on which home
// lies. It makes sure that layers can be kept there. A fresh store has no use for the note of another.
func Locate(ctx context.Context, home, wanted string, fresh bool) (string, error) {
	noted, err := readNote(home)
	fresh = fresh || errors.Is(err, os.ErrNotExist)
	switch {
	case err != nil && !fresh:
		return "", err
	case wanted == "" && !fresh:
		wanted = noted.name
	case wanted == "":
		if wanted, err = datasetOf(home); err != nil {
			return "", err
		}
	}
	guid, err := command.Inspect(ctx, wanted)
	if err != nil {
		return "", err
	}
	if !fresh && guid != noted.guid {
		return "", fmt.Errorf("the store's layers are below the dataset %s (guid %s), not %s (guid %s): set zfs.fsname to where that is now: %w",
			noted.name, noted.guid, wanted, guid, errdefs.ErrFailedPrecondition)
	}
	if found := (note{wanted, guid}); found != noted {
		return wanted, writeNote(home, found)
	}
	return wanted, nil
}

// datasetOf returns the dataset that is mounted where dir lies.
func datasetOf(dir string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if uint32(st.Type) != superMagic {
		return "", fmt.Errorf("%s does not lie on ZFS (its file system has type %#x): choose a root directory that does, name a dataset with zfs.fsname, or choose another backend: %w",
			dir, uint32(st.Type), errdefs.ErrFailedPrecondition)
	}
	on, err := mount.On(dir)
	if err != nil {
		return "", err
	}
	if on.Type != "zfs" || !IsName(on.Source) {
		return "", fmt.Errorf("%s lies on %s (%s), of which no dataset can be told: name one with zfs.fsname: %w", dir, on.Source, on.Type, errdefs.ErrFailedPrecondition)
	}
	return on.Source, nil
}

// superMagic is ZFS_SUPER_MAGIC (include/sys/fs/zfs.h).
const superMagic = 0x2fc12fc1
