package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"strata/plugin/snapshotter"
)

// containerdRecord collects the snapshots of a snapshotter that a containerd's root directory relies on, and who needs
// them. It is read from the database, since containerd passes over snapshots that the snapshotter does not have.
//
// The database (containerd core/metadata/buckets.go) has, below the bucket v1 and one for each namespace:
// snapshots/SNAPSHOTTER/KEY with name, which the snapshotter knows, and parent, a key; image/NAME/target with digest;
// content/blob/DIGEST/labels, where containerd.io/gc.ref.content.* are digests of other blobs, and
// containerd.io/gc.ref.snapshot.SNAPSHOTTER is a key; containers/ID with snapshotter and snapshotKey.
func containerdRecord(root, name string) (record, error) {
	r := record{owner: "containerd", layers: map[string]*users{}}
	found := false
	err := readDatabase(filepath.Join(root, "io.containerd.metadata.v1.bolt", "meta.db"), func(tx *bolt.Tx) error {
		v1 := tx.Bucket([]byte("v1"))
		if v1 == nil {
			return nil
		}
		return v1.ForEachBucket(func(ns []byte) error {
			n := &namespace{record: r, name: string(ns), bucket: v1.Bucket(ns), snapshotter: name, snapshots: map[string]snapshot{}}
			n.read()
			found = found || sub(n.bucket, "snapshots", name) != nil
			return nil
		})
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s is not containerd's root directory: %w: %w", root, err, errdefs.ErrNotFound)
	}
	if err == nil && !found {
		err = fmt.Errorf("containerd's root %s knows no snapshotter %s: %w", root, name, errdefs.ErrNotFound)
	}
	return r, err
}

// namespace is one of containerd's namespaces on its way into a record.
type namespace struct {
	record
	name        string
	bucket      *bolt.Bucket
	snapshotter string
	snapshots   map[string]snapshot // by key
}

// snapshot is one that containerd knows.
type snapshot struct{ layer, parent string } // the store's name of the layer, and the key of the parent

func (n *namespace) read() {
	each(sub(n.bucket, "snapshots", n.snapshotter), func(key string, b *bolt.Bucket) {
		s := snapshot{layer: snapshotter.Prefix + string(b.Get([]byte("name"))), parent: string(b.Get([]byte("parent")))}
		n.snapshots[key] = s
		n.needed(s.layer)
	})
	each(sub(n.bucket, "image"), func(image string, b *bolt.Bucket) {
		target := sub(b, "target")
		if target == nil {
			return
		}
		n.blob(string(target.Get([]byte("digest"))), image, map[string]bool{})
	})
	each(sub(n.bucket, "containers"), func(id string, b *bolt.Bucket) {
		if string(b.Get([]byte("snapshotter"))) == n.snapshotter {
			n.use(string(b.Get([]byte("snapshotKey"))), func(u *users) { u.containers = append(u.containers, n.name+"/"+short(id)) })
		}
	})
}

// blob enters the snapshots that a blob of an image refers to, directly or through others.
func (n *namespace) blob(digest, image string, seen map[string]bool) {
	labels := sub(n.bucket, "content", "blob", digest, "labels")
	if labels == nil || seen[digest] {
		return
	}
	seen[digest] = true
	const content, snapshots = "containerd.io/gc.ref.content", "containerd.io/gc.ref.snapshot."
	c := labels.Cursor()
	for label, value := c.First(); label != nil; label, value = c.Next() {
		kind, _, _ := strings.Cut(strings.TrimPrefix(string(label), snapshots), "/")
		switch {
		case strings.HasPrefix(string(label), content):
			n.blob(string(value), image, seen)
		case kind == n.snapshotter:
			n.use(string(value), func(u *users) { u.images = append(u.images, image) })
		}
	}
}

// use tells who uses a snapshot, of it and those that it stands on.
func (n *namespace) use(key string, tell func(u *users)) {
	var chain []string
	for s, ok := n.snapshots[key]; ok && !slices.Contains(chain, s.layer); s, ok = n.snapshots[s.parent] {
		chain = append(chain, s.layer)
		tell(n.needed(s.layer))
	}
}

// sub goes down a path of buckets. It returns nil if there is none.
func sub(b *bolt.Bucket, path ...string) *bolt.Bucket {
	for _, name := range path {
		if b == nil || name == "" {
			return nil
		}
		b = b.Bucket([]byte(name))
	}
	return b
}

// each calls f for every bucket in b, which may be nil.
func each(b *bolt.Bucket, f func(name string, b *bolt.Bucket)) {
	if b == nil {
		return
	}
	c := b.Cursor()
	for name, value := c.First(); name != nil; name, value = c.Next() {
		if value == nil {
			f(string(name), b.Bucket(name))
		}
	}
}
