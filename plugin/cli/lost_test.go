package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	bolt "go.etcd.io/bbolt"
	"gotest.tools/v3/assert"

	"strata/plugin/control"
	"strata/plugin/control/controltest"
)

// said are the layers of a record, each with who needs it.
func said(r record) map[string]string {
	m := map[string]string{}
	for name, u := range r.layers {
		m[name] = u.String()
	}
	return m
}

// database writes a database: each path is of buckets, a key and a value.
func database(t *testing.T, file string, paths ...string) {
	t.Helper()
	assert.NilError(t, os.MkdirAll(filepath.Dir(file), 0o700))
	db, err := bolt.Open(file, 0o600, nil)
	assert.NilError(t, err)
	assert.NilError(t, db.Update(func(tx *bolt.Tx) error {
		for _, path := range paths {
			words := strings.Split(path, " ")
			b, err := tx.CreateBucketIfNotExists([]byte(words[0]))
			for _, name := range words[1 : len(words)-2] {
				if err == nil {
					b, err = b.CreateBucketIfNotExists([]byte(name))
				}
			}
			if err == nil {
				err = b.Put([]byte(words[len(words)-2]), []byte(words[len(words)-1]))
			}
			if err != nil {
				return err
			}
		}
		return nil
	}))
	assert.NilError(t, db.Close())
}

func TestDockerRecord(t *testing.T) {
	d := dockerRoot{t, t.TempDir()}
	d.layer("overlay2", "builtin")
	_, err := dockerRecord(d.dir)
	assert.Assert(t, errdefs.IsNotFound(err), "%v", err)

	lower := d.layer(pluginDriver, "lower")
	upper := d.layer(pluginDriver, "upper", lower)
	d.layer(pluginDriver, "alone")
	chain := identity.ChainID([]digest.Digest{lower, upper})
	d.write(pluginDriver+"/layerdb/sha256/"+chain.Encoded()+"/parent", []byte(lower))
	tagged, untagged := d.image("tagged", lower, upper), d.image("untagged", lower)
	d.write(pluginDriver+"/repositories.json", fmt.Appendf(nil, `{"Repositories":{"b":{"b:1":%q}}}`, tagged))
	const web, lost = "1111111111111111111111111111111111111111111111111111111111111111", "2222222222222222222222222222222222222222222222222222222222222222"
	for id, name := range map[string]string{web: "web", lost: "lost"} {
		d.write(pluginDriver+"/layerdb/mounts/"+id+"/mount-id", []byte(name+"-rw"))
		d.write(pluginDriver+"/layerdb/mounts/"+id+"/init-id", []byte(name+"-init"))
		d.write(pluginDriver+"/layerdb/mounts/"+id+"/parent", []byte(chain))
	}
	d.write("../containers/"+web+"/config.v2.json", []byte(`{"Name":"/web"}`))
	d.write("../containers/"+lost+"/config.v2.json", []byte(`{`))
	// What is on its way is not missed.
	d.write(pluginDriver+"/layerdb/sha256/"+chain.Encoded()+"-1-removing/cache-id", []byte("removing"))
	d.write(pluginDriver+"/layerdb/tmp/write-set-1/cache-id", []byte("registering"))
	cache := strings.Repeat("k", 25)
	database(t, filepath.Join(d.dir, "buildkit", "snapshots.db"), cache+" parent x", "image committed y", strings.Repeat("i", 25)+" layer.chainid z")

	r, err := dockerRecord(d.dir)
	assert.NilError(t, err)
	assert.DeepEqual(t, said(r), map[string]string{
		"lower":     "needed by image " + short(untagged.Encoded()) + ", docker.io/library/b:1 and container 222222222222, web",
		"upper":     "needed by image docker.io/library/b:1 and container 222222222222, web",
		"alone":     "no image and no container needs it",
		"web-rw":    "needed by container web",
		"web-init":  "needed by container web",
		"lost-rw":   "needed by container 222222222222",
		"lost-init": "needed by container 222222222222",
		cache:       "needed by BuildKit's cache (docker builder prune --all empties it)",
	})

	// A damaged record does not keep check going round.
	d.write(pluginDriver+"/layerdb/sha256/"+lower.Encoded()+"/parent", []byte(chain))
	_, err = dockerRecord(d.dir)
	assert.NilError(t, err)
}

func TestContainerdRecord(t *testing.T) {
	root := t.TempDir()
	_, err := containerdRecord(root, "strata")
	assert.Assert(t, errdefs.IsNotFound(err), "%v", err)
	const gc = "containerd.io/gc.ref."
	database(t, filepath.Join(root, "io.containerd.metadata.v1.bolt", "meta.db"),
		"v1 ns snapshots strata low name ns/1/low",
		"v1 ns snapshots strata top name ns/2/top", "v1 ns snapshots strata top parent low",
		"v1 ns snapshots strata run name ns/3/run", "v1 ns snapshots strata run parent top",
		"v1 ns snapshots overlayfs low name ns/1/low-elsewhere",
		"v1 other snapshots strata low name other/1/low",
		"v1 other snapshots strata round name other/2/round", "v1 other snapshots strata round parent round",
		"v1 ns image app:1 target digest index",
		"v1 ns image gone target digest nowhere",
		"v1 ns content blob index labels "+gc+"content.m.0 manifest",
		"v1 ns content blob manifest labels "+gc+"content.config config", "v1 ns content blob manifest labels "+gc+"content.l.0 manifest",
		"v1 ns content blob config labels "+gc+"snapshot.strata top", "v1 ns content blob config labels "+gc+"snapshot.overlayfs low",
		"v1 ns containers web snapshotter strata", "v1 ns containers web snapshotKey run",
		"v1 ns containers odd snapshotter overlayfs", "v1 ns containers odd snapshotKey low",
		"v1 other containers round snapshotter strata", "v1 other containers round snapshotKey round",
	)
	r, err := containerdRecord(root, "strata")
	assert.NilError(t, err)
	assert.DeepEqual(t, said(r), map[string]string{
		"containerd/ns/1/low":      "needed by image app:1 and container ns/web",
		"containerd/ns/2/top":      "needed by image app:1 and container ns/web",
		"containerd/ns/3/run":      "needed by container ns/web",
		"containerd/other/1/low":   "no image and no container needs it",
		"containerd/other/2/round": "needed by container other/round",
	})
	_, err = containerdRecord(root, "nydus")
	assert.Assert(t, errdefs.IsNotFound(err), "%v", err)
}

// TestLost looks twice: a layer that is being removed leaves the store before the record.
func TestLost(t *testing.T) {
	f := controltest.New()
	has := f.Layers[0].Name
	at := &target{Store: f, describe: func(context.Context) (control.Info, error) {
		return control.Info{Place: control.Place{HostRoot: "/host"}}, nil
	}}
	for _, tc := range []struct {
		name          string
		first, second string
		want          []string
	}{
		{"nothing", "", "", nil},
		{"all there", has, "", nil},
		{"being removed", has + " x", has, nil},
		{"others at each look", has + " x", has + " y", nil},
		{"lost", has + " x y", has + " y x", []string{"x", "y"}},
		{"all lost", "x", "x", []string{"", "x"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rounds := []string{tc.first, tc.second}
			found, err := at.lost(t.Context(), func() (record, error) {
				r := record{owner: "Docker", layers: map[string]*users{}}
				for _, name := range strings.Fields(rounds[0]) {
					r.needed(name).images = []string{"b:1"}
				}
				rounds = rounds[1:]
				return r, nil
			})
			assert.NilError(t, err)
			var names []string
			for _, x := range found {
				names = append(names, x.Layer)
				assert.Assert(t, !x.Kind.Harmless())
				assert.Equal(t, x.Kind == findingWrong, x.Layer == "")
				if x.Kind == findingWrong {
					assert.Assert(t, strings.Contains(x.Detail, "/host"), "%s", x.Detail)
				}
			}
			assert.DeepEqual(t, names, tc.want)
		})
	}
}

func TestEnumerate(t *testing.T) {
	assert.Equal(t, enumerate([]string{"b", "a", "b"}), "a, b")
	assert.Equal(t, enumerate(strings.Fields("a b c d e f g h i j")), "a, b, c, d, e, f, g, h and 2 more")
}
