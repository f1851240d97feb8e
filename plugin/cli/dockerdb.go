package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend/regular"
	"strata/plugin"
)

// dockerNames are the names of layers that a Docker data root refers to.
type dockerNames struct {
	known     map[string]bool
	plugins   bool // storage plugins have some of them
	snapshots bool // BuildKit has a record
}

// dockerLayers collects the names of all layers that a Docker data root still refers to, whatever
// storage driver they belong to: names do not clash.
//
// Docker keeps its record below image/DRIVER/layerdb (moby layer/filestore.go), where DRIVER is the
// string that was given to --storage-driver and may hold slashes: of each image layer the file
// cache-id, of each container mount-id and init-id. Layers that are just being registered are in
// tmp, those being removed have another directory name; both count. BuildKit has a record of its
// own.
func dockerLayers(root string) (n dockerNames, err error) {
	if _, err := pluginDBs(root); err != nil { // without one, every layer would look like an orphan
		return n, err
	}
	dbs, err := layerDBs(filepath.Join(root, "image"))
	if err != nil {
		return n, fmt.Errorf("read docker root %s: %w", root, err)
	}
	n.known = map[string]bool{}
	for _, db := range dbs {
		before := len(n.known)
		for _, pattern := range []string{"sha256/*/cache-id", "tmp/*/cache-id", "mounts/*/mount-id", "mounts/*/init-id"} {
			if err := readNames(db, pattern, n.known); err != nil {
				return n, fmt.Errorf("read docker root %s: %w", root, err)
			}
		}
		n.plugins = n.plugins || ofPlugin(db) && len(n.known) > before
	}
	n.snapshots, err = buildKitLayers(root, n.known)
	return n, err
}

// pluginDBs finds the records of layers that storage plugins keep. ErrNotFound if there is none.
func pluginDBs(root string) ([]string, error) {
	dbs, err := layerDBs(filepath.Join(root, "image"))
	if err != nil {
		return nil, fmt.Errorf("read docker root %s: %w", root, err)
	}
	dbs = slices.DeleteFunc(dbs, func(db string) bool { return !ofPlugin(db) })
	if len(dbs) == 0 {
		return nil, fmt.Errorf("docker root %s holds no record of a storage plugin's layers (image/DRIVER/layerdb): %w", root, errdefs.ErrNotFound)
	}
	return dbs, nil
}

// layerDBs finds the directories called layerdb below dir.
func layerDBs(dir string) ([]string, error) {
	var dbs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "layerdb":
			dbs = append(dbs, path)
			return fs.SkipDir
		case d.IsDir() && d.Name() == "imagedb":
			return fs.SkipDir
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return dbs, err
}

// ofPlugin tells the record of a storage plugin from that of a driver built into dockerd. Only the
// former says anything about our layers.
func ofPlugin(db string) bool {
	builtin := []string{"aufs", "btrfs", "devicemapper", "fuse-overlayfs", "overlay", "overlay2", "vfs", "zfs"}
	return !slices.Contains(builtin, filepath.Base(filepath.Dir(db)))
}

func readNames(db, pattern string, known map[string]bool) error {
	files, err := filepath.Glob(filepath.Join(escapeGlob(db), pattern))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := regular.Read(file, plugin.MaxWord)
		if errors.Is(err, fs.ErrNotExist) {
			continue // Docker removed it meanwhile
		}
		if err != nil {
			return err
		}
		if name := strings.TrimSpace(string(text)); name != "" {
			known[name] = true
		}
	}
	return nil
}

// escapeGlob makes a path match itself in filepath.Glob.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
