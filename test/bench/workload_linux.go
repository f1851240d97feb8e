package main

import (
	"archive/tar"
	"context"
	"fmt"
	"path/filepath"

	"strata/test/e2e/engine"
)

// workloads are the images and layers that everything is measured with.
type workloads struct {
	dir     string
	busybox *engine.Layer
	deb     *engine.Layer // a Debian root with git, perl and python
	many    *engine.Layer // 60000 small files
	big     *engine.Layer // one file of 1 GiB
	deep    []*engine.Layer
	files   int // in many
}

// deepLayers is the number of layers of the deep image.
const deepLayers = 60

func makeWorkloads(ctx context.Context, dir string, quick bool) (*workloads, error) {
	progress("making layers")
	w := &workloads{dir: dir, files: 60000}
	size := int64(1 << 30)
	if quick {
		w.files, size = 6000, size/8
	}
	cache, err := engine.OpenCache()
	if err != nil {
		return nil, err
	}
	if w.deb, err = engine.DebianRoot(ctx, cache); err != nil {
		return nil, err
	}
	for _, l := range []struct {
		to   **engine.Layer
		name string
		fill func(*tar.Writer) error
	}{
		{&w.busybox, "busybox", engine.FillBusybox},
		{&w.many, "many", engine.FillMany("many", w.files)},
		{&w.big, "big", engine.FillBig("big", size)},
	} {
		if *l.to, err = engine.WriteLayer(filepath.Join(dir, l.name+".layer"), l.fill); err != nil {
			return nil, err
		}
	}
	w.deep = []*engine.Layer{w.busybox}
	for i := 1; i < deepLayers; i++ {
		l, err := engine.WriteLayer(filepath.Join(dir, fmt.Sprintf("deep%d.layer", i)), engine.FillMany(fmt.Sprintf("deep%d", i), 10))
		if err != nil {
			return nil, err
		}
		w.deep = append(w.deep, l)
	}
	for name, layers := range map[string][]*engine.Layer{
		"deb": {w.deb}, "many": {w.busybox, w.many}, "big": {w.busybox, w.big}, "deep": w.deep, "busybox": {w.busybox},
	} {
		if err := engine.WriteImage(w.archive(name), name+":latest", layers...); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// archive returns the path of the archive for docker load.
func (w *workloads) archive(name string) string { return filepath.Join(w.dir, name+".tar") }
