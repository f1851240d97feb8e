package graphdriver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"strata/backend/regular"
	"strata/plugin"
)

// initFormat is the version of the file's format.
const initFormat = 1

// initFile is the content of the file: one JSON object.
type initFile struct {
	Format  int    `json:"format"`
	Version string `json:"version"` // of the program that wrote it
	Init    Init   `json:"init"`
}

// loadInit reads the arguments of the last Init. fs.ErrNotExist if there was none, ErrDataLoss for a
// file that we did not write.
func loadInit(path string) (Init, error) {
	b, err := regular.Read(path, plugin.MaxRecord)
	if err != nil {
		return Init{}, fmt.Errorf("load init arguments: %w", err)
	}
	var f initFile
	if err := json.Unmarshal(b, &f); err != nil {
		return Init{}, fmt.Errorf("load init arguments from %s: %w: %w", path, err, errdefs.ErrDataLoss)
	}
	if f.Format != initFormat {
		return Init{}, fmt.Errorf("load init arguments from %s: format %d, this version of strata knows %d: %w",
			path, f.Format, initFormat, errdefs.ErrFailedPrecondition)
	}
	if err := f.Init.check(); err != nil {
		return Init{}, fmt.Errorf("load init arguments from %s: %w: %w", path, err, errdefs.ErrDataLoss)
	}
	return f.Init, nil
}

// saveInit writes the arguments, whole or not at all, and durably. It writes nothing if the file
// has them already.
func saveInit(path, version string, i Init) error {
	b, err := json.MarshalIndent(initFile{Format: initFormat, Version: version, Init: i}, "", "  ")
	if err != nil {
		return fmt.Errorf("save init arguments: %w", err)
	}
	b = append(b, '\n')
	old, err := regular.Read(path, plugin.MaxRecord)
	if err == nil && bytes.Equal(old, b) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("save init arguments: %w", err)
	}
	if err := replaceFile(path, b); err != nil {
		return fmt.Errorf("save init arguments: %w", err)
	}
	return nil
}

// replaceFile replaces a file's content atomically and makes it durable. What a crash leaves is
// path with ".tmp" added, which the next call overwrites.
func replaceFile(path string, content []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
