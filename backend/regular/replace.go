package regular

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Temporary is what a file's name has behind it until it takes the place of another.
const Temporary = ".tmp"

// Replace puts a file that write makes, under another name in the same directory, in the place of the one at path. After
// a crash path holds the old or the new content, whole; what it leaves under the other name the next call overwrites.
// Whether the new content survives a power cut is for write to say, which may sync it, and whether its name does for
// the caller, who may sync the directory. An error of write is returned as it is, and nothing is replaced. Two calls for
// one path must not run at the same time.
func Replace(path string, write func(temporary string) error) error {
	tmp := path + Temporary
	err := write(tmp)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp) // the error says why; what stays is overwritten
	}
	return err
}

// ReplaceDurably replaces the file at path by one with this content and mode 0600, which survives a power cut from then
// on. The rest is as with Replace.
func ReplaceDurably(path string, content []byte) error {
	err := Replace(path, func(tmp string) error { return writeSynced(tmp, content) })
	if err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	return nil
}

func writeSynced(path string, content []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600) // nobody else's file, and through no link
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
