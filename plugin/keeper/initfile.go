package keeper

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/regular"
	"strata/plugin"
)

// Init is what Docker says when it starts to use a driver.
type Init struct {
	// Home is the directory that Docker proposes: the plugin's propagated mount, or Docker's data
	// root, joined with the driver's name as the user typed it ("strata", "strata:latest", ...).
	// Whoever decides where the store lies must not let it depend on the last component.
	Home string
	// Opts are Docker's --storage-opt values, as they are.
	Opts []string
	// UIDMaps and GIDMaps are those of userns-remap, else empty.
	UIDMaps []backend.IDRange
	GIDMaps []backend.IDRange
}

// IDMap returns how the layers are to be stored, nil for no map.
func (i Init) IDMap() *backend.IDMap {
	if len(i.UIDMaps) == 0 && len(i.GIDMaps) == 0 {
		return nil
	}
	return &backend.IDMap{UIDs: i.UIDMaps, GIDs: i.GIDMaps}
}

func (i Init) check() error {
	if !filepath.IsAbs(i.Home) {
		return fmt.Errorf("init: home %q is not an absolute path: %w", i.Home, errdefs.ErrInvalidArgument)
	}
	if err := i.IDMap().Check(); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if _, _, err := i.IDMap().Root(); err != nil {
		return fmt.Errorf("init: no owner for the root directory of layers: %w", err)
	}
	return nil
}

// InitFile is the name of the file with the arguments of the last Init, in the store's directory.
const InitFile = "init.json"

// initFormat is the version of the file's format.
const initFormat = 1

// initFile is the content of the file: one JSON object.
type initFile struct {
	Format  int    `json:"format"`
	Version string `json:"version"` // of the program that wrote it
	Init    Init   `json:"init"`
}

// loadInit reads the arguments of the last Init. fs.ErrNotExist if there was none, ErrDataLoss for
// a file that we did not write.
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
	if err := regular.ReplaceDurably(path, b); err != nil {
		return fmt.Errorf("save init arguments: %w", err)
	}
	return nil
}
