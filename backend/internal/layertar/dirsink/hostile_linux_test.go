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
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/layertar/pack"
	"strata/backend/internal/layertar/tarcodec"
	"strata/backend/internal/layertar/tartest"
	"strata/backend/internal/layertar/unpack"
)

// sentinel is a directory with a layer in it and, around it, files that must not change.
type sentinel struct {
	outer, layer string
	before       map[string]string
}

func newSentinel(t testing.TB) *sentinel {
	t.Helper()
	s := &sentinel{outer: t.TempDir()}
	s.layer = filepath.Join(s.outer, "store", "layer")
	assert.NilError(t, os.MkdirAll(s.layer, 0o755))
	assert.NilError(t, os.WriteFile(filepath.Join(s.outer, "secret"), []byte("secret"), 0o600))
	assert.NilError(t, os.WriteFile(filepath.Join(s.outer, "store", "secret"), []byte("secret"), 0o600))
	s.before = s.outside(t)
	return s
}

func (s *sentinel) outside(t testing.TB) map[string]string {
	t.Helper()
	all, err := tartest.Snapshot(s.outer)
	assert.NilError(t, err)
	for path := range all {
		if tarcodec.Within(path, "store/layer") {
			delete(all, path)
		}
	}
	return all
}

func (s *sentinel) check(t testing.TB) {
	t.Helper()
	assert.Equal(t, cmp.Diff(s.before, s.outside(t)), "", "something outside the layer changed")
}

// openFiles counts the process's file descriptors.
func openFiles(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	assert.NilError(t, err)
	return len(list)
}

// hostileTar is a tar that must be refused, or end within the layer.
type hostileTar struct {
	name    string
	dialect backend.Whiteouts
	members []tartest.Member
	want    error    // nil: accepted
	paths   []string // that must be there then
}

func hostilePaths() []hostileTar {
	return []hostileTar{
		{name: "dot dot", members: []tartest.Member{tartest.File("../x", "")}, paths: []string{"x"}},
		{name: "dot dot inside", members: []tartest.Member{tartest.File("a/../../x", "")}, paths: []string{"x"}},
		{name: "only dot dot", members: []tartest.Member{tartest.Dir("..")}},
		{name: "absolute", members: []tartest.Member{tartest.File("/x", "")}, paths: []string{"x"}},
		{name: "absolute dot dot", members: []tartest.Member{tartest.File("/../x", "")}, paths: []string{"x"}},
		{name: "root as a device", members: []tartest.Member{{Header: tar.Header{Name: "..", Typeflag: tar.TypeFifo}}}, want: errdefs.ErrInvalidArgument},
		{name: "nothing as a file", members: []tartest.Member{tartest.File(".", "x"), tartest.File("", "x"), tartest.Link("./", "/etc"), tartest.File("y", "")}, paths: []string{"y"}},
		{name: "symlink to root", members: []tartest.Member{tartest.Symlink("l", "/"), tartest.File("l/x", "")}, paths: []string{"x"}},
		{name: "symlink up", members: []tartest.Member{tartest.Symlink("l", "../.."), tartest.File("l/secret", "x")}, paths: []string{"secret"}},
		{name: "symlink to new directory", members: []tartest.Member{tartest.Symlink("lib", "usr/lib"), tartest.File("lib/x", "")}, paths: []string{"usr/lib/x"}},
		{name: "symlink loop", members: []tartest.Member{tartest.Symlink("l", "l"), tartest.File("l/x", "")}, want: unix.ELOOP},
		{name: "through a file", members: []tartest.Member{tartest.File("f", ""), tartest.File("f/x", "")}, want: unix.ENOTDIR},
		{name: "over a symlink", members: []tartest.Member{tartest.Symlink("l", "../secret"), tartest.File("l", "x")}, paths: []string{"l"}},
		{name: "symlink swap", members: []tartest.Member{tartest.Dir("d"), tartest.File("d/a", ""), tartest.Symlink("d", "../.."), tartest.File("d/secret", "x")}, paths: []string{"secret"}},
		{name: "whiteout through symlink", members: []tartest.Member{tartest.Symlink("l", "../.."), tartest.File("l/.wh.secret", "")}},
		{name: "opaque through symlink", members: []tartest.Member{tartest.Symlink("l", ".."), tartest.File("l/.wh..wh..opq", "")}},
	}
}

func hostileEntries() []hostileTar {
	const overlay = backend.WhiteoutsOverlay
	return []hostileTar{
		{name: "hard link up", members: []tartest.Member{tartest.Link("h", "../secret")}, want: unix.ENOENT},
		{name: "hard link up to a file", members: []tartest.Member{tartest.File("x", ""), tartest.Link("d/h", "../../x")}, paths: []string{"d/h"}},
		{name: "hard link to the root", members: []tartest.Member{tartest.Link("h", "../..")}, want: errdefs.ErrInvalidArgument},
		{name: "hard link absolute", members: []tartest.Member{tartest.Link("h", "/etc/passwd")}, want: unix.ENOENT},
		{name: "hard link through symlink", members: []tartest.Member{tartest.Symlink("l", "../.."), tartest.Link("h", "l/secret")}, want: unix.ENOENT},
		{name: "hard link to symlink", members: []tartest.Member{tartest.Symlink("l", "../secret"), tartest.Link("h", "l"), tartest.File("h", "x")}, paths: []string{"h"}},
		{name: "hard link to directory", members: []tartest.Member{tartest.Dir("d"), tartest.Link("h", "d")}, want: errdefs.ErrInvalidArgument},
		{name: "hard link to nothing", members: []tartest.Member{tartest.Link("h", "none")}, want: errdefs.ErrInvalidArgument},
		{name: "hard link to itself", members: []tartest.Member{tartest.Link("h", "h")}, want: unix.ENOENT},
		{name: "hard link to its file", members: []tartest.Member{tartest.File("h", ""), tartest.Link("h", "h")}, want: errdefs.ErrInvalidArgument},
		{name: "hard link circle", members: []tartest.Member{tartest.Link("a", "b"), tartest.Link("b", "a")}, want: unix.ENOENT},
		{name: "hard links first", members: []tartest.Member{tartest.Link("a", "b"), tartest.Link("b", "c"), tartest.File("c", "x")}, paths: []string{"a", "b", "c"}},
		{name: "whiteout of nothing", members: []tartest.Member{tartest.File("d/.wh.", "")}, want: errdefs.ErrInvalidArgument},
		{name: "whiteout of dot", members: []tartest.Member{tartest.File("d/.wh..", "")}, want: errdefs.ErrInvalidArgument},
		{name: "whiteout of dot dot", members: []tartest.Member{tartest.File("d/.wh...", "")}, want: errdefs.ErrInvalidArgument},
		{name: "AUFS bookkeeping", members: []tartest.Member{tartest.File(".wh..wh.aufs", "x"), tartest.Dir(".wh..wh.orph"), tartest.File(".wh..wh.orph/x", "")}},
		{name: "AUFS link that is not there", members: []tartest.Member{tartest.Link("h", ".wh..wh.plnk/1.2")}, want: errdefs.ErrInvalidArgument},
		{
			name: "hard link to an overlay device", dialect: overlay, want: errdefs.ErrInvalidArgument,
			members: []tartest.Member{{Header: tar.Header{Name: "d", Typeflag: tar.TypeChar}}, tartest.Link("b", "d")},
		},
		{
			name: "hard link to a whiteout", dialect: overlay, want: errdefs.ErrInvalidArgument,
			members: []tartest.Member{tartest.File(".wh.a", ""), tartest.Link("b", "a")},
		},
		{
			name: "below a FIFO", members: []tartest.Member{{Header: tar.Header{Name: "p", Typeflag: tar.TypeFifo}}, tartest.File("p/.wh.x", "")},
			paths: []string{"p"},
		},
		{
			name: "owner out of range", want: errdefs.ErrInvalidArgument,
			members: []tartest.Member{{Header: tar.Header{Name: "f", Uid: 1 << 32}}},
		},
		{name: "name too long", members: []tartest.Member{tartest.File(strings.Repeat("n", 300), "")}, want: unix.ENAMETOOLONG},
	}
}

// TestHostile unpacks what nobody should.
func TestHostile(t *testing.T) {
	tartest.NeedRoot(t)
	for _, test := range append(hostilePaths(), hostileEntries()...) {
		t.Run(test.name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			s := newSentinel(t)
			before := openFiles(t)
			_, err := Apply(t.Context(), s.layer, bytes.NewReader(tartest.Make(t, test.members...)), Options{Whiteouts: test.dialect}, unpack.Options{})
			assert.Equal(t, openFiles(t), before, "file descriptors are left open")
			s.check(t)
			if test.want != nil {
				assert.ErrorIs(t, err, test.want)
				return
			}
			assert.NilError(t, err)
			for _, path := range test.paths {
				_, err := os.Lstat(filepath.Join(s.layer, path))
				assert.NilError(t, err)
			}
			_, err = os.Lstat(filepath.Join(s.layer, ".wh..wh.strata"))
			assert.ErrorIs(t, err, os.ErrNotExist)
		})
	}
}

// TestTorn cuts a tar at every length that matters and expects an error, no leak and no hang.
func TestTorn(t *testing.T) {
	tartest.NeedRoot(t)
	whole := tartest.Make(t, tartest.Dir("d"), tartest.File("d/f", strings.Repeat("x", 700)), tartest.Xattr(tartest.File("d/g", "y"), "user.k", "v"))
	for _, cut := range []int{1, 511, 513, 1025, 1536, 1536 + 699, 2561, 2570, 3073, 4097} {
		before := openFiles(t)
		_, err := Apply(t.Context(), t.TempDir(), bytes.NewReader(whole[:cut]), Options{}, unpack.Options{})
		assert.ErrorIs(t, err, io.ErrUnexpectedEOF, "cut at %d", cut)
		assert.Equal(t, openFiles(t), before)
	}
}

// TestHeaderBombs gives headers that claim to be followed by far too much.
func TestHeaderBombs(t *testing.T) {
	tartest.NeedRoot(t)
	for _, kind := range []byte{'x', 'g', 'L', 'K'} {
		for _, size := range []int64{tarcodec.MaxSpecial + 1, 4 << 30, 1 << 33, -1} {
			h := tartest.Header(kind, size)
			_, err := Apply(t.Context(), t.TempDir(), io.MultiReader(bytes.NewReader(h), zeros{}), Options{}, unpack.Options{})
			assert.ErrorIs(t, err, errdefs.ErrInvalidArgument, "%c %d", kind, size)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestOwnAttributes holds that marks that would act where the layer is mounted never reach the disk, nor a tar, and others do.
func TestOwnAttributes(t *testing.T) {
	tartest.NeedRoot(t)
	data := tartest.Make(t,
		tartest.Xattr(tartest.Dir("d"), "trusted.overlay.redirect", "/other"),
		tartest.Xattr(tartest.File("f", ""), "user.overlay.metacopy", "nested"),
		tartest.Xattr(tartest.File("g", ""), "trusted.mine", "kept"),
		tartest.Xattr(tartest.Symlink("l", "g"), "user.k", "refused by Linux, left out"),
	)
	for _, test := range []struct {
		whiteouts, marks backend.Whiteouts
		leftOut          int
	}{
		{backend.WhiteoutsNone, backend.WhiteoutsNone, 2},
		{backend.WhiteoutsNone, backend.WhiteoutsOverlay, 2},
		{backend.WhiteoutsOverlay, backend.WhiteoutsNone, 2},
		{backend.WhiteoutsNone, backend.WhiteoutsOverlayUser, 3},
		{backend.WhiteoutsOverlayUser, backend.WhiteoutsNone, 3},
	} {
		dir := t.TempDir()
		res, err := Apply(t.Context(), dir, bytes.NewReader(data), Options{Whiteouts: test.whiteouts, Marks: test.marks}, unpack.Options{})
		assert.NilError(t, err)
		assert.Equal(t, res.LeftOut.Count, test.leftOut)
		got, err := tartest.Snapshot(dir)
		assert.NilError(t, err)
		assert.Assert(t, !strings.Contains(got["d"], "overlay"), got["d"])
		assert.Equal(t, strings.Contains(got["f"], `user.overlay.metacopy="nested"`), test.leftOut == 2, got["f"])
		assert.Assert(t, strings.Contains(got["g"], `trusted.mine="kept"`))
	}
	dir := t.TempDir()
	tartest.Mkdir(t, filepath.Join(dir, "d"))
	for _, name := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		assert.NilError(t, unix.Lsetxattr(filepath.Join(dir, "d"), name, []byte("y"), 0))
	}
	for _, marks := range []backend.Whiteouts{backend.WhiteoutsNone, backend.WhiteoutsOverlay, backend.WhiteoutsOverlayUser} {
		var out bytes.Buffer
		assert.NilError(t, pack.Changes(t.Context(), &out, dir, tartest.Changes(tartest.Added("/d")...), pack.Options{Marks: marks}))
		records := tartest.Read(t, out.Bytes())[0].PAXRecords
		assert.Equal(t, records[tartest.XattrPrefix+"trusted.overlay.opaque"], "")
		assert.Equal(t, records[tartest.XattrPrefix+"user.overlay.opaque"] == "y", marks != backend.WhiteoutsOverlayUser)
	}
}

// TestAbsentAttributes: what the kernel does not know is left out, what it knows and cannot do is an error.
func TestAbsentAttributes(t *testing.T) {
	tartest.NeedRoot(t)
	dir := loopMount(t, "ext4", 8<<20)
	for _, test := range []struct {
		name, value string
		why         string // it is left out
		want        error  // nil: left out
	}{
		{name: "com.apple.provenance", why: "is in no namespace of Linux's"},
		{name: "system.nfs4_acl", why: "operation not supported"},
		{name: "nonsense", why: "is in no namespace of Linux's"},
		{name: "user", why: "operation not supported"},
		{name: "user.big", value: strings.Repeat("x", 60<<10), want: errdefs.ErrNotImplemented},
		{name: "user.huge", value: strings.Repeat("x", 64<<10+1), want: unix.E2BIG},
		{name: "user." + strings.Repeat("n", 300), want: unix.ERANGE},
		{name: "security.capability", value: "no capability", want: unix.EINVAL},
	} {
		layer := filepath.Join(dir, "layer")
		tartest.Mkdir(t, layer)
		res, err := Apply(t.Context(), layer, bytes.NewReader(tartest.Make(t, tartest.Xattr(tartest.File("f", ""), test.name, test.value))), Options{}, unpack.Options{})
		if test.want != nil {
			assert.ErrorIs(t, err, test.want, test.name)
		} else {
			assert.NilError(t, err, test.name)
			assert.DeepEqual(t, res.LeftOut, unpack.Note{Count: 1, First: test.name + ` of "f": ` + test.why})
		}
		assert.NilError(t, os.RemoveAll(layer))
	}
	assert.Assert(t, !absentXattr("security.capability", unix.S_IFREG, unix.ENOTSUP))
	assert.Assert(t, !absentXattr("trusted.x", unix.S_IFREG, unix.EPERM))
	assert.Assert(t, !absentXattr("user.x", unix.S_IFREG, unix.EPERM))
	assert.Assert(t, absentXattr("user.x", unix.S_IFIFO, unix.EPERM))
}

// TestLargeAttribute: what a file system has no room for in one file is no full disk, and a full disk is one.
func TestLargeAttribute(t *testing.T) {
	tartest.NeedRoot(t)
	dir := loopMount(t, "ext4", 64<<20)
	var disk unix.Statfs_t
	assert.NilError(t, unix.Statfs(dir, &disk))
	layer := filepath.Join(dir, "layer")
	tartest.Mkdir(t, layer)
	try := func(m tartest.Member, size int) error {
		text := tartest.Make(t, tartest.Xattr(m, "user.large", strings.Repeat("x", size)))
		_, err := Apply(t.Context(), layer, bytes.NewReader(text), Options{}, unpack.Options{})
		return err
	}
	for _, m := range []tartest.Member{tartest.File("f", "f"), tartest.Dir("d")} {
		err := try(m, 5000)
		assert.Assert(t, errdefs.IsNotImplemented(err) && !errors.Is(err, unix.ENOSPC), "%v", err)
		assert.ErrorContains(t, err, `set attribute "user.large" of 5000 bytes: the disk is not full`)
		assert.ErrorContains(t, err, fmt.Sprintf("ext4 keeps %d KiB of attributes a file, unless it was made with mkfs.ext4 -O ea_inode", disk.Bsize>>10))
	}
	f, err := os.Create(filepath.Join(dir, "ballast"))
	assert.NilError(t, err)
	_, err = io.Copy(f, zeros{})
	assert.ErrorIs(t, errors.Join(err, f.Sync()), unix.ENOSPC)
	assert.NilError(t, f.Close())
	for i := 0; err == nil || i == 0; i++ { // ext4 keeps blocks back for attributes
		name := filepath.Join(dir, fmt.Sprint("f", i))
		assert.NilError(t, os.WriteFile(name, nil, 0o600))
		err = unix.Setxattr(name, "user.x", fmt.Appendf(nil, "%0600d", i), 0)
	}
	assert.ErrorIs(t, err, unix.ENOSPC)
	for _, size := range []int{600, 5000} {
		assert.ErrorIs(t, try(tartest.File("g", ""), size), unix.ENOSPC)
	}
}

// TestCancel stops an Apply whose tar never ends.
func TestCancel(t *testing.T) {
	tartest.NeedRoot(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	endless := io.MultiReader(bytes.NewReader(tartest.Make(t, tartest.File("f", ""))), zeros{})
	_, err := Apply(ctx, t.TempDir(), endless, Options{}, unpack.Options{})
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

// TestReadError passes on what the stream says.
func TestReadError(t *testing.T) {
	tartest.NeedRoot(t)
	broken := errors.New("connection lost")
	r := io.MultiReader(bytes.NewReader(tartest.Header('0', 1<<20)), failing{broken})
	_, err := Apply(t.Context(), t.TempDir(), r, Options{}, unpack.Options{})
	assert.ErrorIs(t, err, broken)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestDiskFull unpacks into a small file system.
func TestDiskFull(t *testing.T) {
	tartest.NeedRoot(t)
	dir := loopMount(t, "ext4", 8<<20)
	for _, size := range []int{64 << 10, 16 << 20} {
		before := openFiles(t)
		var list []tartest.Member
		for i := range (32 << 20) / size {
			list = append(list, tartest.File(strings.Repeat("f", i+1), strings.Repeat("x", size)))
			if i == 200 {
				break
			}
		}
		layer := filepath.Join(dir, "layer")
		tartest.Mkdir(t, layer)
		_, err := Apply(t.Context(), layer, bytes.NewReader(tartest.Make(t, list...)), Options{}, unpack.Options{})
		assert.ErrorIs(t, err, unix.ENOSPC)
		assert.Equal(t, openFiles(t), before)
		assert.NilError(t, os.RemoveAll(layer))
	}
}
