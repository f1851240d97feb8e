package cli_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/plugin/control/controltest"
)

// output is a plugin and a directory that a tar is to be written to.
type output struct {
	t      *testing.T
	fake   *controltest.Fake
	socket string
	dir    string
}

func newOutput(t *testing.T) *output {
	t.Helper()
	return newOutputOf(t, controltest.New())
}

func newOutputOf(t *testing.T, fake *controltest.Fake) *output {
	t.Helper()
	o := &output{t: t, fake: fake, socket: filepath.Join(t.TempDir(), "s.sock"), dir: t.TempDir()}
	o.fake.Tar = bytes.Repeat([]byte("a tar "), 1<<18) // more than all buffers hold
	stop, err := serve(o.socket, o.fake)
	assert.NilError(t, err)
	t.Cleanup(stop)
	return o
}

func (o *output) args(file string) []string {
	return []string{"--socket", o.socket, "diff", "b", "-o", file}
}

// diff runs strata diff -o FILE and returns the exit code and what it says.
func (o *output) diff(ctx context.Context, file string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	a := app()
	a.Stdout, a.Stderr = &out, &errs
	code = a.Run(ctx, o.args(file))
	return code, out.String(), errs.String()
}

func (o *output) succeeds(file string) {
	o.t.Helper()
	code, _, errs := o.diff(o.t.Context(), file)
	assert.Equal(o.t, code, 0, errs)
}

func (o *output) fails(file, text string) {
	o.t.Helper()
	code, _, errs := o.diff(o.t.Context(), file)
	assert.Assert(o.t, code != 0)
	assert.Assert(o.t, strings.Contains(errs, text), "%s", errs)
}

// holds checks that a path is, or leads to, a regular file with the tar, and that these names are in the directory.
func (o *output) holds(path string, names ...string) {
	o.t.Helper()
	got, err := os.ReadFile(path)
	assert.NilError(o.t, err)
	assert.Assert(o.t, bytes.Equal(got, o.fake.Tar), "%s holds %d bytes", path, len(got))
	o.lists(names...)
}

func (o *output) lists(names ...string) {
	o.t.Helper()
	entries, err := os.ReadDir(o.dir)
	assert.NilError(o.t, err)
	got := []string{}
	for _, e := range entries {
		got = append(got, e.Name())
	}
	assert.DeepEqual(o.t, got, append([]string{}, names...))
}

func (o *output) device(name string, minor uint32) string {
	o.t.Helper()
	const memory = 1 // major number of null and full
	path := filepath.Join(o.dir, name)
	if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(memory, minor))); err != nil {
		o.t.Skipf("making devices needs root: %v", err)
	}
	return path
}

func TestOutputToADevice(t *testing.T) {
	o := newOutput(t)
	const null, full = 3, 7
	for _, d := range []struct {
		name  string
		minor uint32
	}{{"null", null}, {"full", full}} {
		path := o.device(d.name, d.minor)
		if d.minor == full {
			o.fails(path, "no space left on device")
		} else {
			o.succeeds(path)
		}
		st, err := os.Lstat(path)
		assert.NilError(t, err)
		assert.Assert(t, st.Mode()&os.ModeCharDevice != 0, "%s is %s now", path, st.Mode())
	}
	o.lists("full", "null")
}

func TestOutputToNoDirectory(t *testing.T) {
	o := newOutput(t)
	dir := filepath.Join(o.dir, "none")
	o.fails(filepath.Join(dir, "file"), "write "+dir+"/file: directory "+dir+": no such file or directory")
	o.lists()
}

func TestOutputToAFifo(t *testing.T) {
	o := newOutput(t)
	path := filepath.Join(o.dir, "fifo")
	assert.NilError(t, unix.Mkfifo(path, 0o600))
	read := make(chan []byte, 1)
	go func() {
		f, err := os.Open(path)
		assert.Check(t, err)
		defer f.Close()
		all, err := io.ReadAll(f)
		assert.Check(t, err)
		read <- all
	}()
	o.succeeds(path)
	assert.Assert(t, bytes.Equal(<-read, o.fake.Tar))
	st, err := os.Lstat(path)
	assert.NilError(t, err)
	assert.Assert(t, st.Mode()&os.ModeNamedPipe != 0)

	// One that nobody reads can be waited for no longer than the user likes.
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	code, _, errs := o.diff(ctx, path)
	assert.Equal(t, code, 1, errs)
	f, err := os.OpenFile(path, os.O_RDWR, 0) // ends the one that waits
	assert.NilError(t, err)
	assert.NilError(t, f.Close())
}

func TestOutputThroughLinks(t *testing.T) {
	o := newOutput(t)
	elsewhere := t.TempDir()
	target := filepath.Join(elsewhere, "d", "target")
	assert.NilError(t, os.Mkdir(filepath.Dir(target), 0o700))
	assert.NilError(t, os.Symlink(filepath.Join(elsewhere, "d"), filepath.Join(o.dir, "dir")))
	assert.NilError(t, os.Symlink("dir/../d/target", filepath.Join(o.dir, "one"))) // ".." is that of d
	assert.NilError(t, os.Symlink("one", filepath.Join(o.dir, "two")))
	for range 2 { // dangling first
		o.succeeds(filepath.Join(o.dir, "two"))
		o.holds(target, "dir", "one", "two")
		link, err := os.Readlink(filepath.Join(o.dir, "two"))
		assert.NilError(t, err)
		assert.Equal(t, link, "one")
	}
	assert.NilError(t, os.Symlink("circle", filepath.Join(o.dir, "circle")))
	o.fails(filepath.Join(o.dir, "circle"), "too many")
	assert.NilError(t, os.Symlink("no/such/dir", filepath.Join(o.dir, "lost")))
	o.fails(filepath.Join(o.dir, "lost"), "no such file")
}

func TestOutputThatCannotBe(t *testing.T) {
	o := newOutput(t)
	o.fails(o.dir, "is a directory")
	o.fails(filepath.Join(o.dir, "new")+"/", "is a directory")
	o.fails(o.socket, "is a socket")
	o.fails(filepath.Join(o.dir, "no", "such"), "no such file")
	o.lists()
}

func TestOutputKeepsModeAndOwner(t *testing.T) {
	o := newOutput(t)
	path := filepath.Join(o.dir, "tar")
	assert.NilError(t, os.WriteFile(path, []byte("old"), 0o600))
	assert.NilError(t, os.Chmod(path, 0o440))
	if os.Geteuid() != 0 {
		o.fails(path, "permission denied")
		return
	}
	const someone = 1234
	assert.NilError(t, os.Chown(path, someone, someone))
	o.succeeds(path)
	o.holds(path, "tar")
	var st unix.Stat_t
	assert.NilError(t, unix.Stat(path, &st))
	assert.Equal(t, st.Mode, uint32(unix.S_IFREG|0o440))
	assert.Equal(t, [2]uint32{st.Uid, st.Gid}, [2]uint32{someone, someone})
}

// TestOutputIntoWhatIsMore than a plain file: another cannot take its place.
func TestOutputIntoWhatIsMore(t *testing.T) {
	o := newOutput(t)
	path := filepath.Join(o.dir, "tar")
	longer := append(bytes.Clone(o.fake.Tar), "old"...)
	for _, tc := range []struct {
		name string
		more func(t *testing.T)
	}{
		{"two links", func(t *testing.T) {
			other := filepath.Join(t.TempDir(), "link")
			assert.NilError(t, os.Link(path, other))
			t.Cleanup(func() { assert.Check(t, os.Remove(other)) })
		}},
		{"attribute", func(t *testing.T) {
			if err := unix.Setxattr(path, "user.x", []byte("y"), 0); err != nil {
				t.Skipf("no attributes here: %v", err)
			}
		}},
		{"mount point", func(t *testing.T) {
			source := filepath.Join(t.TempDir(), "source")
			assert.NilError(t, os.WriteFile(source, longer, 0o600))
			if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
				t.Skipf("mounting needs root: %v", err)
			}
			t.Cleanup(func() { assert.Check(t, unix.Unmount(path, 0)) })
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := os.Remove(path); err != nil {
				assert.ErrorIs(t, err, os.ErrNotExist)
			}
			assert.NilError(t, os.WriteFile(path, longer, 0o600))
			tc.more(t)
			before, err := os.Stat(path)
			assert.NilError(t, err)
			o.succeeds(path)
			o.holds(path, "tar")
			after, err := os.Stat(path)
			assert.NilError(t, err)
			assert.Assert(t, os.SameFile(before, after), "it is another file")
		})
	}
}

// TestOutputToADescriptor: what is open gets the tar, where it stands, whatever its name is by now.
func TestOutputToADescriptor(t *testing.T) {
	o := newOutput(t)
	self, err := os.Executable()
	assert.NilError(t, err)
	path := filepath.Join(o.dir, "tar")
	const handed = "3" // the first of ExtraFiles
	for _, name := range []string{"/dev/fd/" + handed, "/proc/self/fd/" + handed, "/proc/thread-self/fd/" + handed, "/dev/stderr"} {
		for _, gone := range []bool{false, true} {
			f, err := os.Create(path)
			assert.NilError(t, err)
			_, err = f.WriteString("head")
			assert.NilError(t, err)
			if gone {
				assert.NilError(t, os.Remove(path))
			}
			cmd := exec.CommandContext(t.Context(), self, o.args(name)...)
			cmd.Args[0] = "strata"
			cmd.ExtraFiles, cmd.Stderr = []*os.File{f}, f
			assert.NilError(t, cmd.Run(), "%s", name)
			st, err := f.Stat()
			assert.NilError(t, err)
			got := make([]byte, st.Size())
			_, err = f.ReadAt(got, 0)
			assert.NilError(t, err)
			assert.Assert(t, string(got) == "head"+string(o.fake.Tar), "%s holds %d bytes", name, len(got))
			assert.NilError(t, f.Close())
			if gone {
				o.lists()
			}
		}
	}
	o.lists()
}

// TestOutputAfterAKill leaves what was there, and nothing else, when the process is killed in the middle.
func TestOutputAfterAKill(t *testing.T) {
	fake := controltest.New()
	written := make(chan struct{})
	var first sync.Once
	fake.Before = func(ctx context.Context, method string) {
		if method == "Diff" {
			first.Do(func() {
				close(written)
				<-ctx.Done()
			})
		}
	}
	o := newOutputOf(t, fake)
	path := filepath.Join(o.dir, "tar")
	assert.NilError(t, os.WriteFile(path, []byte("old"), 0o600))
	for _, stray := range []string{"tar.part", ".tar.part"} { // others' files
		assert.NilError(t, os.WriteFile(filepath.Join(o.dir, stray), nil, 0o600))
	}
	self, err := os.Executable()
	assert.NilError(t, err)
	cmd := exec.CommandContext(t.Context(), self, o.args(path)...)
	cmd.Args[0] = "strata" // which the test program then is
	assert.NilError(t, cmd.Start())
	<-written
	assert.NilError(t, cmd.Process.Kill())
	assert.ErrorContains(t, cmd.Wait(), "killed")
	got, err := os.ReadFile(path)
	assert.NilError(t, err)
	assert.Equal(t, string(got), "old")
	o.lists(".tar.part", "tar", "tar.part")
	o.succeeds(path)
	o.holds(path, ".tar.part", "tar", "tar.part")
}

// TestOutputOnAFullDisk leaves no part of the file.
func TestOutputOnAFullDisk(t *testing.T) {
	o := newOutput(t)
	if err := unix.Mount("tmpfs", o.dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("mounting needs root: %v", err)
	}
	t.Cleanup(func() { assert.Check(t, unix.Unmount(o.dir, 0)) })
	path := filepath.Join(o.dir, "tar")
	o.fails(path, "no space left")
	o.lists()
	assert.NilError(t, os.WriteFile(path, []byte("old"), 0o600))
	o.fails(path, "no space left")
	o.lists("tar")
}

// TestOutputToStandardOutput knows standard output by its other names.
func TestOutputToStandardOutput(t *testing.T) {
	o := newOutput(t)
	code, out, errs := o.diff(t.Context(), "-")
	assert.Equal(t, code, 0, errs)
	assert.Equal(t, out, string(o.fake.Tar))
	self, err := os.Executable()
	assert.NilError(t, err)
	cmd := exec.CommandContext(t.Context(), self, o.args("/dev/stdout")...)
	cmd.Args[0] = "strata"
	got, err := cmd.Output()
	assert.NilError(t, err)
	assert.Assert(t, bytes.Equal(got, o.fake.Tar), "%d bytes", len(got))
}
