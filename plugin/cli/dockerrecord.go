package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"strata/backend/regular"
	"strata/plugin"
)

// dockerRecord collects the layers of storage plugins that a Docker data root relies on, and who needs them. It is the
// counterpart of dockerLayers, which rather takes too much for known: what is just being registered or removed is left out.
func dockerRecord(root string) (record, error) {
	r := record{owner: "Docker", layers: map[string]*users{}}
	dbs, err := pluginDBs(root)
	if err != nil {
		return r, err
	}
	names := containerNames(root)
	for _, db := range dbs {
		d := &dockerDB{record: r, dir: db, layers: map[string]string{}, names: names}
		if err := d.read(); err != nil {
			return r, fmt.Errorf("read docker root %s: %w", root, err)
		}
	}
	made, err := buildKitMade(root)
	for _, name := range made {
		if buildKit(name) {
			r.needed(name).others = []string{"BuildKit's cache (docker builder prune --all empties it)"}
		}
	}
	return r, err
}

// containerNames returns the names of a data root's containers by their IDs. A container that cannot be read has none.
func containerNames(root string) map[string]string {
	names := map[string]string{}
	files, _ := filepath.Glob(filepath.Join(escapeGlob(root), "containers", "*", "config.v2.json")) // the pattern is right
	for _, file := range files {
		var config struct{ Name string }
		if text, err := regular.Read(file, plugin.MaxRecord); err == nil && json.Unmarshal(text, &config) == nil && config.Name != "" {
			names[filepath.Base(filepath.Dir(file))] = strings.TrimPrefix(config.Name, "/")
		}
	}
	return names
}

// dockerDB is one driver's record on its way into a record.
type dockerDB struct {
	record
	dir    string            // of the layerdb
	layers map[string]string // driver's names of image layers by the hexadecimal digits of their chains
	names  map[string]string // of containers, by ID
}

func (d *dockerDB) read() error {
	chains, err := filepath.Glob(filepath.Join(escapeGlob(d.dir), "sha256", "*", "cache-id"))
	if err != nil {
		return err
	}
	for _, file := range chains {
		chain := filepath.Base(filepath.Dir(file))
		if digest.NewDigestFromEncoded(digest.SHA256, chain).Validate() != nil {
			continue // it is being removed
		}
		name, err := readWord(file)
		if err != nil {
			return err
		}
		if name != "" {
			d.layers[chain] = name
			d.needed(name)
		}
	}
	if err := d.images(); err != nil {
		return err
	}
	return d.containers()
}

func (d *dockerDB) images() error {
	images, err := imagesBeside(d.dir, map[digest.Digest]error{}) // what Docker itself cannot read, it does not use
	if err != nil {
		return err
	}
	for _, i := range images {
		names := i.Names
		if len(names) == 0 {
			names = []string{short(i.ID.Encoded())}
		}
		for _, l := range i.Layers {
			u := d.needed(l.Name)
			u.images = append(u.images, names...)
		}
	}
	return nil
}

// containers enters the layers of each container, and those below them.
func (d *dockerDB) containers() error {
	dirs, err := filepath.Glob(filepath.Join(escapeGlob(d.dir), "mounts", "*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		name := d.names[filepath.Base(dir)]
		if name == "" {
			name = short(filepath.Base(dir))
		}
		for _, file := range []string{"mount-id", "init-id"} {
			if err := d.container(filepath.Join(dir, file), name); err != nil {
				return err
			}
		}
		if err := d.below(dir, name); err != nil {
			return err
		}
	}
	return nil
}

// below enters the image layers that a container stands on. Each layer has the chain of the one below it in the file parent.
func (d *dockerDB) below(dir, name string) error {
	for range d.layers { // a container has no more; a damaged record may go in circles
		parent, err := readWord(filepath.Join(dir, "parent"))
		if err != nil || parent == "" {
			return err
		}
		chain := hex(parent)
		if layer := d.layers[chain]; layer != "" {
			u := d.needed(layer)
			u.containers = append(u.containers, name)
		}
		dir = filepath.Join(d.dir, "sha256", chain)
	}
	return nil
}

// container enters a layer that is a container's own, whose name a file has.
func (d *dockerDB) container(file, name string) error {
	layer, err := readWord(file)
	if err != nil || layer == "" {
		return err
	}
	u := d.needed(layer)
	u.containers = append(u.containers, name)
	return nil
}

// hex returns the digits of a chain's digest, and what is no digest as it is but for slashes, so that it names no other file.
func hex(chain string) string { return filepath.Base(strings.TrimPrefix(chain, "sha256:")) }

// readWord reads a file that holds one word, and "" for a file that is not there: Docker may have removed it meanwhile.
func readWord(file string) (string, error) {
	text, err := regular.Read(file, plugin.MaxWord)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(text)), err
}
