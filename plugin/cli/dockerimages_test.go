package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"gotest.tools/v3/assert"
)

// pluginDriver is what Docker calls a storage plugin.
const pluginDriver = "localhost:5000/strata:latest"

// dockerRoot is a Docker data root, made by hand.
type dockerRoot struct {
	t   *testing.T
	dir string
}

func (d dockerRoot) write(path string, text []byte) {
	d.t.Helper()
	path = filepath.Join(d.dir, "image", path)
	assert.NilError(d.t, os.MkdirAll(filepath.Dir(path), 0o700))
	assert.NilError(d.t, os.WriteFile(path, text, 0o600))
}

// layer writes down a layer of that name and returns the digest of its tar.
func (d dockerRoot) layer(driver, name string, below ...digest.Digest) digest.Digest {
	d.t.Helper()
	diff := digest.FromString(name)
	d.write(driver+"/layerdb/sha256/"+identity.ChainID(append(below, diff)).Encoded()+"/cache-id", []byte(name))
	return diff
}

func (d dockerRoot) image(author string, diffs ...digest.Digest) digest.Digest {
	d.t.Helper()
	text, err := json.Marshal(ocispec.Image{Author: author, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: diffs}})
	assert.NilError(d.t, err)
	id := digest.FromBytes(text)
	d.write(pluginDriver+"/imagedb/content/sha256/"+id.Encoded(), text)
	return id
}

func TestDockerImages(t *testing.T) {
	d := dockerRoot{t, t.TempDir()}
	_, _, err := dockerImages(d.dir)
	assert.Assert(t, errdefs.IsNotFound(err), "%v", err)
	d.layer("overlay2", "builtin")
	_, _, err = dockerImages(d.dir)
	assert.Assert(t, errdefs.IsNotFound(err), "%v", err)

	const driver = pluginDriver
	lower := d.layer(driver, "lower")
	upper := d.layer(driver, "upper", lower)
	tagged := d.image("tagged", lower, upper)
	dangling := d.image("dangling", lower)
	parent := d.image("parent", lower)
	d.write(fmt.Sprintf("%s/imagedb/metadata/sha256/%s/parent", driver, tagged.Encoded()), []byte(parent))
	gone := d.image("its layer is gone", upper)
	d.write(driver+"/repositories.json", fmt.Appendf(nil,
		`{"Repositories":{"b":{"b:2":%q,"b:1":%q,"b@%s":%q},"r.example:5000/c":{"r.example:5000/c:latest":%q}}}`,
		tagged, tagged, tagged, tagged, tagged))
	images, broken, err := dockerImages(d.dir)
	assert.NilError(t, err)
	assert.Equal(t, len(images), 2)
	if images[0].ID != tagged {
		images[0], images[1] = images[1], images[0]
	}
	assert.DeepEqual(t, images[0].Names, []string{"docker.io/library/b:1", "docker.io/library/b:2", "r.example:5000/c:latest"})
	assert.DeepEqual(t, images[0].Layers, []imageLayer{
		{Chain: lower, Diff: lower, Name: "lower"},
		{Chain: identity.ChainID([]digest.Digest{lower, upper}), Diff: upper, Name: "upper"},
	})
	assert.Equal(t, images[1].ID, dangling)
	assert.Equal(t, len(images[1].Names), 0)
	assert.Equal(t, len(broken), 1)
	assert.ErrorIs(t, broken[gone], os.ErrNotExist)

	d.write(driver+"/imagedb/content/sha256/"+dangling.Encoded(), []byte("{}"))
	_, broken, err = dockerImages(d.dir)
	assert.NilError(t, err)
	assert.Assert(t, errdefs.IsDataLoss(broken[dangling]), "%v", broken[dangling])

	// A name that is none is a matter of its image alone.
	d.write(driver+"/repositories.json", fmt.Appendf(nil, `{"Repositories":{"b":{"b:1":%q},"c":{"C C":%q}}}`, tagged, dangling))
	images, broken, err = dockerImages(d.dir)
	assert.NilError(t, err)
	assert.Equal(t, len(images), 1)
	assert.Equal(t, images[0].ID, tagged)
	assert.ErrorContains(t, broken[dangling], `"C C"`)
}

// FuzzDockerImages reads a configuration and names that anybody may have written.
func FuzzDockerImages(f *testing.F) {
	f.Add([]byte(`{"rootfs":{"diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]}}`), []byte(`{"Repositories":{"a":{"a:1":"sha256:0"}}}`))
	f.Add([]byte(`{"rootfs":{"diff_ids":["sha256:../../x","sha512:","","x"]}}`), []byte(`{"Repositories":{"":{"":""}}}`))
	f.Add([]byte(`{"rootfs":{"diff_ids":["x"]}}`), []byte(`{"Repositories":null}`))
	f.Fuzz(func(t *testing.T, config, repositories []byte) {
		d := dockerRoot{t, t.TempDir()}
		id := digest.FromBytes(config)
		d.layer("strata", "l")
		d.write("strata/imagedb/content/sha256/"+id.Encoded(), config)
		d.write("strata/repositories.json", repositories)
		images, broken, err := dockerImages(d.dir)
		if err != nil {
			return // the names: nothing can be said then
		}
		assert.Equal(t, len(images)+len(broken), 1)
		for _, i := range images {
			for _, l := range i.Layers {
				assert.Equal(t, l.Name, "l")
			}
		}
	})
}
