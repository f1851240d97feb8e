package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"strata/test/e2e/engine"
)

// workloads are the images and layers that everything is measured with; those that are not needed are missing.
type workloads struct {
	dir     string
	Busybox *engine.Layer
	Deb     *engine.Layer   // a Debian root with git, perl and python
	Many    *engine.Layer   // 60000 small files
	Big     *engine.Layer   // one file of 1 GiB
	Deep    []*engine.Layer // 60 of them, the first is Busybox
}

// deepLayers is the number of layers of the deep image.
const deepLayers = 60

// workloadFile is the file that describes what is in a directory. It is written last.
const workloadFile = "workloads.json"

// openWorkloads reads what is in the directory, or makes it.
func openWorkloads(ctx context.Context, dir string, o options) (*workloads, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	w := &workloads{dir: dir}
	path := filepath.Join(dir, workloadFile)
	b, err := os.ReadFile(path)
	if err == nil {
		return w, json.Unmarshal(b, w)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	progress("making layers")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := w.fill(ctx, o); err != nil {
		return nil, err
	}
	if b, err = json.Marshal(w); err != nil {
		return nil, err
	}
	return w, os.WriteFile(path, b, 0o600)
}

// needs tells whether one of these parts is measured, or the level driver.
func (o options) needs(parts ...string) bool {
	for _, p := range parts {
		if (has(o.level, "docker") || has(o.level, "snapshotter")) && has(o.parts, p) {
			return true
		}
	}
	return has(o.level, "driver")
}

func (w *workloads) fill(ctx context.Context, o options) (err error) {
	files, size := 60000, int64(1<<30)
	if o.quick {
		files, size = files/10, size/8
	}
	if w.Busybox, err = w.layer("busybox", engine.FillBusybox); err != nil {
		return err
	}
	images := map[string][]*engine.Layer{"busybox": {w.Busybox}}
	if o.needs("debian") {
		cache, err := engine.OpenCache()
		if err != nil {
			return err
		}
		if w.Deb, err = engine.DebianRoot(ctx, cache); err != nil {
			return err
		}
		images["deb"] = []*engine.Layer{w.Deb}
	}
	if o.needs("many") {
		if w.Many, err = w.layer("many", engine.FillMany("many", files)); err != nil {
			return err
		}
		images["many"] = []*engine.Layer{w.Busybox, w.Many}
	}
	if o.needs("big") {
		if w.Big, err = w.layer("big", engine.FillBig("big", size)); err != nil {
			return err
		}
		images["big"] = []*engine.Layer{w.Busybox, w.Big}
	}
	if o.needs("deep") {
		if err := w.fillDeep(); err != nil {
			return err
		}
		images["deep"] = w.Deep
	}
	for name, layers := range images {
		if err := engine.WriteImage(w.archive(name), name+":latest", layers...); err != nil {
			return err
		}
	}
	return nil
}

func (w *workloads) fillDeep() error {
	w.Deep = []*engine.Layer{w.Busybox}
	for i := 1; i < deepLayers; i++ {
		l, err := w.layer(fmt.Sprintf("deep%d", i), engine.FillMany(fmt.Sprintf("deep%d", i), 10))
		if err != nil {
			return err
		}
		w.Deep = append(w.Deep, l)
	}
	return nil
}

func (w *workloads) layer(name string, fill func(*tar.Writer) error) (*engine.Layer, error) {
	return engine.WriteLayer(filepath.Join(w.dir, name+".layer"), fill)
}

// archive returns the path of the archive for docker load.
func (w *workloads) archive(name string) string { return filepath.Join(w.dir, name+".tar") }
