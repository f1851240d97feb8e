package dirsink

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"strata/backend/internal/layertar/tarcodec"
	"strata/backend/internal/layertar/tarlog"
	"strata/backend/internal/layertar/unpack"

	containerd "github.com/containerd/containerd/v2/pkg/archive"
	"github.com/docker/docker/pkg/archive"
	"gotest.tools/v3/assert"
	"pgregory.net/rapid"

	"strata/backend"
	"strata/backend/internal/layertar/tartest"
)

// TestLikeDocker unpacks random tars, one on top of another, with Docker's code and ours, and
// compares the trees. What Docker refuses is not compared.
func TestLikeDocker(t *testing.T) {
	tartest.NeedRoot(t)
	work := t.TempDir()
	n, compared := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		ours, theirs := filepath.Join(work, fmt.Sprint(n, "o")), filepath.Join(work, fmt.Sprint(n, "t"))
		for _, dir := range []string{ours, theirs} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			defer remove(t, dir)
		}
		for _, marks := range []bool{false, true} {
			data := tartest.Draw(t, "tar", marks)
			var size int64
			err := tartest.InChroot(theirs, func() (err error) {
				size, err = archive.UnpackLayer("/", bytes.NewReader(data), nil)
				return err
			})
			if err != nil {
				return
			}
			r, err := Apply(context.Background(), ours, bytes.NewReader(data), Options{Whiteouts: backend.WhiteoutsNone}, unpack.Options{})
			if err != nil {
				t.Fatalf("Docker accepts it, we do not: %v", err)
			}
			if r.Size != size {
				t.Fatalf("size %d, Docker's %d", r.Size, size)
			}
			compareTrees(t, ours, theirs)
			compared++
		}
	})
	assert.Assert(t, compared > n/4, "only %d of %d tars were fit for comparison", compared, n)
}

// TestTakenAsDocker unpacks what few tars have with the code of Docker's overlay2 driver, in a chroot as there, and with ours.
func TestTakenAsDocker(t *testing.T) {
	tartest.NeedRoot(t)
	closed := func(name string) tartest.Member {
		return tartest.Member{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o700, Uid: 3, Gid: 4}}
	}
	owned := func(id int) tartest.Member {
		return tartest.Member{Header: tar.Header{Name: fmt.Sprint("owner", id), Uid: id, Gid: id, Mode: 0o644, Format: tar.FormatGNU}}
	}
	device := func(kind byte, major, minor int64) tartest.Member {
		return tartest.Member{Header: tar.Header{
			Name: fmt.Sprintf("dev%c%d-%d", kind, major, minor), Typeflag: kind, Devmajor: major, Devminor: minor, Mode: 0o600, Format: tar.FormatGNU,
		}}
	}
	for i, members := range [][]tartest.Member{
		{tartest.File("./../x/f.jar", "jar"), tartest.File("a/../../y", "y"), tartest.File("/../../z", "z"), tartest.File("..a/...", "")},
		{tartest.File("etc/x", "x"), tartest.Link("l", "../../etc/x"), tartest.Link("m", "/etc/x"), tartest.Link("n", "./etc/../../etc/x"), tartest.Symlink("s", "../../etc/x")},
		{tartest.File("a", "a"), tartest.File("", "nothing"), tartest.File("b", "b")},
		{closed("./"), tartest.File("./f", "f")},
		{closed("."), closed("d/.."), tartest.File(".", "root"), tartest.Symlink("./", "x"), tartest.File("f", "f")},
		{closed("/"), tartest.File("f", "f")},
		{closed(".."), tartest.File("f", "f")},
		{closed("d/../../"), tartest.File("f", "f")},
		{owned(-1), owned(-2), owned(1<<32 - 1), owned(1<<32 - 2), owned(-1 << 31)},
		{device(tar.TypeChar, 4097, 1<<20+3), device(tar.TypeBlock, 4103, 2), device(tar.TypeBlock, 0, 0), device(tar.TypeChar, -1, -1)},
	} {
		ours, theirs := t.TempDir(), t.TempDir()
		data := tartest.Make(t, members...)
		assert.NilError(t, tartest.InChroot(theirs, func() error {
			return archive.Unpack(bytes.NewReader(data), "/", &archive.TarOptions{WhiteoutFormat: archive.OverlayWhiteoutFormat})
		}))
		_, err := Apply(t.Context(), ours, bytes.NewReader(data), Options{Whiteouts: overlay, Below: (&plainBelow{dir: t.TempDir()}).open}, unpack.Options{})
		assert.NilError(t, err, "tar %d", i)
		want, err := tartest.Snapshot(theirs)
		assert.NilError(t, err)
		got, err := tartest.Snapshot(ours)
		assert.NilError(t, err)
		assert.DeepEqual(t, got, want)
	}
}

// TestTakenAsContainerd does the same with containerd's code. It knows of no root called "/", refuses devices that we cut off, and
// leaves out trusted.*, which an image from Docker may have.
func TestTakenAsContainerd(t *testing.T) {
	tartest.NeedRoot(t)
	closed := tartest.Member{Header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 3, Gid: 4}}
	fifo := tartest.Member{Header: tar.Header{Name: "p", Typeflag: tar.TypeFifo, Mode: 0o600}}
	for i, members := range [][]tartest.Member{
		{tartest.File("./../x/f.jar", "jar"), tartest.File("a/../../y", "y"), tartest.File("/../../z", "z")},
		{tartest.File("etc/x", "x"), tartest.Link("l", "../../etc/x"), tartest.Link("m", "/etc/x"), tartest.Symlink("s", "../../etc/x")},
		{tartest.File("a", "a"), tartest.File("", "nothing"), tartest.File("b", "b")},
		{closed, tartest.File("./f", "f"), tartest.File(".", "root")},
		{{Header: tar.Header{Name: "null", Typeflag: tar.TypeChar, Mode: 0o600}}},
		{
			tartest.Xattr(tartest.File("f", "x"), "com.apple.provenance", "v"), tartest.Xattr(tartest.Dir("d"), "system.nfs4_acl", "v"),
			tartest.Xattr(tartest.File("g", "x"), "lustre.lov", "v"), tartest.Xattr(tartest.Symlink("s", "f"), "user.k", "v"), tartest.Xattr(fifo, "user.k", "v"),
			tartest.Xattr(tartest.Symlink("a", "f"), tarcodec.ACLAccess, anACL), tartest.Xattr(tartest.File("h", "x"), "user.k", "v"),
			tartest.Xattr(tartest.Dir("o"), "user.overlay.opaque", "y"),
		},
		{{Header: tar.Header{Name: "o", Uid: -1, Gid: -2, Format: tar.FormatGNU}}},
	} {
		ours, theirs := t.TempDir(), t.TempDir()
		data := tartest.Make(t, members...)
		_, err := containerd.Apply(t.Context(), theirs, bytes.NewReader(data))
		assert.NilError(t, err, "tar %d", i)
		_, err = Apply(t.Context(), ours, bytes.NewReader(data), Options{}, unpack.Options{})
		assert.NilError(t, err, "tar %d", i)
		want, err := tartest.Snapshot(theirs)
		assert.NilError(t, err)
		got, err := tartest.Snapshot(ours)
		assert.NilError(t, err)
		assert.DeepEqual(t, got, want)
	}
	_, err := containerd.Apply(t.Context(), t.TempDir(), bytes.NewReader(nil))
	assert.NilError(t, err)
	_, err = Apply(t.Context(), t.TempDir(), bytes.NewReader(nil), Options{}, unpack.Options{})
	assert.NilError(t, err)
}

// anACL is user::rw-, group::r--, other::r-- (include/uapi/linux/posix_acl_xattr.h).
const anACL = "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x04\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"

// remove deletes what a draw unpacked.
func remove(t *rapid.T, dir string) {
	if err := os.RemoveAll(dir); err != nil {
		t.Errorf("%v", err)
	}
}

func compareTrees(t *rapid.T, ours, theirs string) {
	a, err := tartest.Snapshot(ours)
	if err != nil {
		t.Fatal(err)
	}
	b, err := tartest.Snapshot(theirs)
	if err != nil {
		t.Fatal(err)
	}
	for path, line := range a {
		if b[path] != line {
			t.Fatalf("%q:\n  ours   %s\n  docker %s", path, line, b[path])
		}
	}
	for path, line := range b {
		// Docker also makes the directory of a mark where there is nothing to delete.
		if _, ok := a[path]; !ok && line != "40755 0:0" {
			t.Fatalf("%q: only Docker has it: %s", path, line)
		}
	}
}

// TestReplayRandom holds that a log gives every tar that Apply accepts back, byte for byte.
func TestReplayRandom(t *testing.T) {
	tartest.NeedRoot(t)
	umask(t, 0o077) // must not matter
	work := t.TempDir()
	n, exact := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir := filepath.Join(work, fmt.Sprint(n))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		defer remove(t, dir)
		dialect := rapid.SampledFrom([]backend.Whiteouts{
			backend.WhiteoutsNone, backend.WhiteoutsOverlay, backend.WhiteoutsOverlayUser, backend.WhiteoutsAUFS,
		}).Draw(t, "dialect")
		data := tartest.Draw(t, "tar", true)
		l, err := tarlog.Create(dir + ".log")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Apply(context.Background(), dir, bytes.NewReader(data), Options{Whiteouts: dialect}, unpack.Options{Log: l}); err != nil {
			if err := l.Abort(); err != nil {
				t.Fatal(err)
			}
			return
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := replayFile(dir+".log", dir, &out); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), data) {
			t.Fatalf("%d bytes, want %d", out.Len(), len(data))
		}
		exact++
	})
	assert.Assert(t, exact > n/4, "only %d of %d tars were accepted", exact, n)
}

func replayFile(path, dir string, out *bytes.Buffer) error {
	return replay(context.Background(), path, dir, out)
}

// replay gives back what a log and a directory are of.
func replay(ctx context.Context, path, dir string, out io.Writer) (err error) {
	log, err := tarlog.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	src, err := Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	return log.Replay(ctx, out, src)
}
