package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/backend/regular"
	"strata/plugin"
)

// dockerImage is an image as Docker's own record has it.
type dockerImage struct {
	ID     digest.Digest // of Config
	Names  []string      // its tags with their registry, such as docker.io/library/busybox:latest
	Config []byte
	Layers []imageLayer // the lowest first
}

// imageLayer is a layer of an image.
type imageLayer struct {
	Chain digest.Digest // of the layer and those below it
	Diff  digest.Digest // of its tar
	Name  string        // the storage driver's
}

// dockerImages reads the images of all storage plugins from a Docker data root, apart from untagged ones that another was made
// from. broken are those that cannot be read, with their reasons.
//
// Docker keeps them beside the record of its layers (moby image/fs.go, reference/store.go, layer/filestore.go):
// imagedb/content/sha256/ID is the configuration, imagedb/metadata/sha256/ID/parent what an image was made from, repositories.json
// has the names; layerdb/sha256/CHAIN/cache-id is the driver's name of a layer.
func dockerImages(root string) (images []dockerImage, broken map[digest.Digest]error, err error) {
	dbs, err := pluginDBs(root)
	if err != nil {
		return nil, nil, err
	}
	broken = map[digest.Digest]error{}
	for _, db := range dbs {
		list, err := imagesBeside(db, broken)
		if err != nil {
			return nil, nil, fmt.Errorf("read docker root %s: %w", root, err)
		}
		images = append(images, list...)
	}
	return images, broken, nil
}

// imagesBeside reads the images of one driver, in the order of their IDs.
func imagesBeside(layerDB string, broken map[digest.Digest]error) ([]dockerImage, error) {
	dir := filepath.Dir(layerDB)
	names, noNames, err := imageNames(filepath.Join(dir, "repositories.json"))
	if err != nil {
		return nil, err
	}
	contents := filepath.Join(dir, "imagedb", "content", "sha256")
	entries, err := os.ReadDir(contents)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	parents, err := imageParents(filepath.Join(dir, "imagedb", "metadata", "sha256"))
	if err != nil {
		return nil, err
	}
	var images []dockerImage
	for _, e := range entries {
		id := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
		if err := noNames[id]; err != nil {
			broken[id] = err
			continue
		}
		if len(names[id]) == 0 && parents[id] {
			continue
		}
		i := dockerImage{ID: id, Names: names[id]}
		if i.Config, err = regular.Read(filepath.Join(contents, e.Name()), plugin.MaxRecord); err == nil {
			i.Layers, err = imageLayers(layerDB, i)
		}
		if err != nil {
			broken[id] = err
			continue
		}
		images = append(images, i)
	}
	return images, nil
}

// imageNames reads repositories.json: the tags of each image, sorted, and which images have a name that cannot be one.
func imageNames(file string) (names map[digest.Digest][]string, bad map[digest.Digest]error, err error) {
	var store struct {
		Repositories map[string]map[string]digest.Digest
	}
	text, err := regular.Read(file, plugin.MaxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &store)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	names, bad = map[digest.Digest][]string{}, map[digest.Digest]error{}
	for _, repository := range store.Repositories {
		for name, id := range repository {
			named, err := reference.ParseNormalizedNamed(name)
			if err != nil {
				bad[id] = fmt.Errorf("its name %q in %s: %w", name, file, err)
				continue
			}
			if _, ok := named.(reference.Digested); !ok {
				names[id] = append(names[id], named.String())
			}
		}
	}
	for _, list := range names {
		slices.Sort(list)
	}
	return names, bad, nil
}

// imageParents returns the images that others were made from.
func imageParents(dir string) (map[digest.Digest]bool, error) {
	files, err := filepath.Glob(filepath.Join(escapeGlob(dir), "*", "parent"))
	if err != nil {
		return nil, err
	}
	parents := map[digest.Digest]bool{}
	for _, file := range files {
		text, err := regular.Read(file, plugin.MaxWord)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // Docker removed it meanwhile
			return nil, err
		}
		parents[digest.Digest(strings.TrimSpace(string(text)))] = true
	}
	return parents, nil
}

func imageLayers(layerDB string, i dockerImage) ([]imageLayer, error) {
	if got := digest.FromBytes(i.Config); got != i.ID {
		return nil, fmt.Errorf("its configuration has the digest %s: %w", got, errdefs.ErrDataLoss)
	}
	var config ocispec.Image
	if err := json.Unmarshal(i.Config, &config); err != nil {
		return nil, fmt.Errorf("its configuration: %w", err)
	}
	diffs := config.RootFS.DiffIDs
	var layers []imageLayer
	for n, diff := range diffs {
		if err := diff.Validate(); err != nil || diff.Algorithm() != digest.SHA256 {
			return nil, fmt.Errorf("its configuration has %q for a layer's digest: %w", diff, errdefs.ErrDataLoss)
		}
		chain := identity.ChainID(diffs[:n+1])
		name, err := regular.Read(filepath.Join(layerDB, "sha256", chain.Encoded(), "cache-id"), plugin.MaxWord)
		if err != nil {
			return nil, err
		}
		layers = append(layers, imageLayer{Chain: chain, Diff: diff, Name: strings.TrimSpace(string(name))})
	}
	return layers, nil
}
