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
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/layertar/pack"
	"strata/backend/internal/layertar/tarlog"
	"strata/backend/internal/layertar/tartest"
	"strata/backend/internal/layertar/unpack"
)

// TestManyDirectories uses more directories than are kept open, again and again, and looks at their
// times.
func TestManyDirectories(t *testing.T) {
	tartest.NeedRoot(t)
	const dirs, rounds = 3 * maxDirs, 3
	var list []tartest.Member
	for i := range dirs {
		d := tartest.Dir(fmt.Sprintf("d%d", i))
		d.ModTime = time.Unix(int64(1000+i), 500)
		d.Format = tar.FormatPAX
		list = append(list, d)
	}
	for r := range rounds {
		for i := range dirs {
			list = append(list, tartest.File(fmt.Sprintf("d%d/f%d", i, r), "x"))
		}
	}
	dir := t.TempDir()
	before := openFiles(t)
	_, err := Apply(t.Context(), dir, bytes.NewReader(tartest.Make(t, list...)), Options{}, unpack.Options{})
	assert.NilError(t, err)
	assert.Equal(t, openFiles(t), before)
	for i := range dirs {
		st, err := os.Stat(filepath.Join(dir, fmt.Sprintf("d%d", i)))
		assert.NilError(t, err)
		assert.Assert(t, st.ModTime().Equal(time.Unix(int64(1000+i), 500)), "d%d: %s", i, st.ModTime())
	}
}

// TestIDMap maps owners on the way in and back on the way out.
func TestIDMap(t *testing.T) {
	tartest.NeedRoot(t)
	m := &backend.IDMap{
		UIDs: []backend.IDRange{{Container: 0, Host: 100000, Size: 1000}},
		GIDs: []backend.IDRange{{Container: 0, Host: 200000, Size: 1000}},
	}
	dir := t.TempDir()
	data := tartest.Make(t, tartest.Member{Header: tar.Header{Name: "implied/f", Uid: 5, Gid: 6, Mode: 0o6755}, Body: "x"})
	_, err := Apply(t.Context(), dir, bytes.NewReader(data), Options{IDMap: m}, unpack.Options{})
	assert.NilError(t, err)
	got, err := tartest.Snapshot(dir)
	assert.NilError(t, err)
	assert.Assert(t, strings.HasPrefix(got["implied"], "40755 100000:200000"), got["implied"])
	assert.Assert(t, strings.HasPrefix(got["implied/f"], "106755 100005:200006"), got["implied/f"])

	var out bytes.Buffer
	assert.NilError(t, pack.Changes(t.Context(), &out, dir, tartest.Changes(tartest.Added("/implied", "/implied/f")...), pack.Options{IDMap: m}))
	list := tartest.Read(t, out.Bytes())
	assert.Equal(t, list[0].Uid, 0)
	assert.Equal(t, list[1].Uid, 5)
	assert.Equal(t, list[1].Gid, 6)

	_, err = Apply(t.Context(), t.TempDir(), bytes.NewReader(tartest.Make(t, tartest.Member{Header: tar.Header{Name: "f", Uid: 1000}})), Options{IDMap: m}, unpack.Options{})
	assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	err = pack.Changes(t.Context(), io.Discard, dir, tartest.Changes(tartest.Added("/implied/f")...), pack.Options{IDMap: &backend.IDMap{}})
	assert.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

// TestCapabilities keeps file capabilities through a change of owner.
func TestCapabilities(t *testing.T) {
	tartest.NeedRoot(t)
	// Revision 2, effective, CAP_NET_RAW permitted (linux/capability.h).
	const caps = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	dir := t.TempDir()
	m := tartest.Xattr(tartest.File("ping", "x"), "security.capability", caps)
	m.Uid = 7
	_, err := Apply(t.Context(), dir, bytes.NewReader(tartest.Make(t, m)), Options{}, unpack.Options{})
	assert.NilError(t, err)
	var out bytes.Buffer
	assert.NilError(t, pack.Changes(t.Context(), &out, dir, tartest.Changes(tartest.Added("/ping")...), pack.Options{}))
	assert.Equal(t, tartest.Read(t, out.Bytes())[0].PAXRecords["SCHILY.xattr.security.capability"], caps)
}

// TestReplayChanged replays from layers that are not what they were.
func TestReplayChanged(t *testing.T) {
	tartest.NeedRoot(t)
	body := strings.Repeat("x", 3*(512<<10))
	data := tartest.Make(t, tartest.Dir("d"), tartest.File("d/f", body), tartest.File("d/g", "g"))
	tests := map[string]func(f string) error{
		"content": func(f string) error { return os.WriteFile(f, []byte(strings.Repeat("y", len(body))), 0o644) },
		"longer":  func(f string) error { return os.WriteFile(f, []byte(body+"x"), 0o644) },
		"shorter": func(f string) error { return os.Truncate(f, int64(len(body)-1)) },
		"gone":    os.Remove,
		"symlink": func(f string) error {
			return errors.Join(os.Rename(f, f+"2"), os.Symlink("f2", f))
		},
		"FIFO": func(f string) error { return errors.Join(os.Remove(f), unix.Mkfifo(f, 0o644)) },
		"directory is a symlink": func(f string) error {
			d := filepath.Dir(f)
			return errors.Join(os.Rename(d, d+"2"), os.Symlink("d2", d))
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			work := t.TempDir()
			dir, path := filepath.Join(work, "layer"), filepath.Join(work, "log")
			tartest.Mkdir(t, dir)
			w, err := tarlog.Create(path)
			assert.NilError(t, err)
			_, err = Apply(t.Context(), dir, bytes.NewReader(data), Options{}, unpack.Options{Log: w})
			assert.NilError(t, err)
			assert.NilError(t, errors.Join(w.Sync(), w.Close(), w.Close(), w.Abort()))
			assert.NilError(t, change(filepath.Join(dir, "d/f")))
			before := openFiles(t)
			assert.ErrorIs(t, replayFile(path, dir, &bytes.Buffer{}), errdefs.ErrDataLoss)
			assert.Equal(t, openFiles(t), before)
		})
	}
}

// TestReplayStops ends when its reader goes away or its caller loses interest.
func TestReplayStops(t *testing.T) {
	tartest.NeedRoot(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	work := t.TempDir()
	dir := filepath.Join(work, "layer")
	tartest.Mkdir(t, dir)
	w, err := tarlog.Create(filepath.Join(work, "log"))
	assert.NilError(t, err)
	data := tartest.Make(t, tartest.File("f", strings.Repeat("x", 40*(512<<10))))
	_, err = Apply(t.Context(), dir, bytes.NewReader(data), Options{}, unpack.Options{Log: w})
	assert.NilError(t, err)
	assert.NilError(t, w.Close())
	log, err := tarlog.Open(filepath.Join(work, "log"))
	assert.NilError(t, err)
	defer log.Close()
	assert.Equal(t, log.Bytes(), int64(len(data)))
	assert.ErrorIs(t, replay(t.Context(), filepath.Join(work, "log"), dir, &limited{left: 3 * (512 << 10)}), io.ErrShortWrite)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, replay(ctx, filepath.Join(work, "log"), dir, io.Discard), context.Canceled)
}

type limited struct{ left int }

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

// TestLogTorn cuts a log anywhere: it is never taken for a whole one.
func TestLogTorn(t *testing.T) {
	tartest.NeedRoot(t)
	work := t.TempDir()
	path := filepath.Join(work, "log")
	w, err := tarlog.Create(path)
	assert.NilError(t, err)
	assert.ErrorIs(t, w.Sync(), errdefs.ErrFailedPrecondition)
	_, err = Apply(t.Context(), t.TempDir(), bytes.NewReader(tartest.Make(t, tartest.File("f", "x"))), Options{}, unpack.Options{Log: w})
	assert.NilError(t, err)
	assert.NilError(t, w.Close())
	whole, err := os.ReadFile(path)
	assert.NilError(t, err)
	for cut := range len(whole) {
		assert.NilError(t, os.WriteFile(path, whole[:cut], 0o600))
		_, err := tarlog.Open(path)
		assert.ErrorIs(t, err, errdefs.ErrDataLoss, "cut at %d", cut)
	}
	w, err = tarlog.Create(path)
	assert.NilError(t, err)
	assert.ErrorIs(t, w.Close(), errdefs.ErrFailedPrecondition)
	_, err = os.Stat(path)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// TestMemory unpacks far more than it may keep, and looks at the heap meanwhile.
func TestMemory(t *testing.T) {
	tartest.NeedRoot(t)
	dir := t.TempDir()
	w, err := tarlog.Create(filepath.Join(t.TempDir(), "log"))
	assert.NilError(t, err)
	one := tartest.Make(t, tartest.File("f", strings.Repeat("x", 48<<20)))
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	var peak uint64
	r := &tartest.Watched{Reader: bytes.NewReader(one), Every: 4 << 20, Look: func() {
		runtime.ReadMemStats(&now)
		peak = max(peak, now.HeapAlloc-min(before.HeapAlloc, now.HeapAlloc))
	}}
	_, err = Apply(t.Context(), dir, r, Options{}, unpack.Options{Log: w})
	assert.NilError(t, err)
	assert.NilError(t, w.Close())
	assert.Assert(t, peak > 0 && peak < 32<<20, "%d bytes", peak)
}

// TestFlush flushes, and reports what is not there.
func TestFlush(t *testing.T) {
	assert.NilError(t, Flush(t.Context(), t.TempDir()))
	assert.ErrorIs(t, Flush(t.Context(), filepath.Join(t.TempDir(), "none")), os.ErrNotExist)
}
