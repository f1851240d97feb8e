package dirfd

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// TestOpenComparing holds that the way for old kernels sees mount points, too.
func TestOpenComparing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	dir := t.TempDir()
	for _, name := range []string{"plain", "bind"} {
		assert.NilError(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	bind := filepath.Join(dir, "bind")
	assert.NilError(t, unix.Mount(filepath.Join(dir, "plain"), bind, "", unix.MS_BIND, ""))
	defer func() { assert.NilError(t, unix.Unmount(bind, 0)) }()
	d, err := Open(dir)
	assert.NilError(t, err)
	defer d.Close()
	for name, want := range map[string]error{"plain": nil, "bind": unix.EXDEV, "missing": unix.ENOENT} {
		fd, err := d.openComparing(name, unix.O_DIRECTORY)
		if want != nil {
			assert.Assert(t, errors.Is(err, want), "%s: %v", name, err)
			continue
		}
		assert.NilError(t, err)
		assert.NilError(t, unix.Close(fd))
	}
}

// FuzzParseEntries: whatever a buffer holds, parsing it ends and stays within.
func FuzzParseEntries(f *testing.F) {
	entry := func(name string) []byte {
		b := make([]byte, direntName+len(name)+1)
		binary.NativeEndian.PutUint64(b, 42)
		binary.NativeEndian.PutUint16(b[direntLength:], uint16(len(b)))
		b[direntType] = unix.DT_REG
		copy(b[direntName:], name)
		return b
	}
	f.Add([]byte{})
	f.Add(entry("."))
	f.Add(append(entry("a"), entry("bc")...))
	f.Add(append(entry("a"), 1, 2, 3))
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, buf []byte) {
		for _, e := range parseEntries(buf, nil) {
			if e.Name == "." || e.Name == ".." || len(e.Name) > len(buf) {
				t.Errorf("entry %q", e.Name)
			}
		}
	})
	assert.Equal(f, len(parseEntries(append(entry("a"), entry("bc")...), nil)), 2)
}

// TestXattrs holds that attributes are read from a link, not from what it names, by the system call of Linux 6.13 as by
// the path that older kernels need.
func TestXattrs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: sets trusted attributes")
	}
	dir := t.TempDir()
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	assert.NilError(t, os.Symlink("file", filepath.Join(dir, "link")))
	assert.NilError(t, unix.Setxattr(filepath.Join(dir, "file"), "trusted.file", []byte("1"), 0))
	assert.NilError(t, unix.Lsetxattr(filepath.Join(dir, "link"), "trusted.link", []byte("2"), 0))
	d, err := Open(dir)
	assert.NilError(t, err)
	defer d.Close()
	for name, want := range map[string]string{"file": "trusted.file\x00", "link": "trusted.link\x00"} {
		var a, b [100]byte
		n, err := d.ListXattrs(name, a[:])
		assert.NilError(t, err)
		assert.Equal(t, string(a[:n]), want)
		n, err = unix.Llistxattr(d.Proc(name), b[:])
		assert.NilError(t, err)
		assert.Equal(t, string(b[:n]), want)
		_, err = d.ListXattrs(name, a[:3])
		assert.Assert(t, errors.Is(err, unix.ERANGE), "%v", err)
	}
	_, err = d.ListXattrs("missing", nil)
	assert.Assert(t, errors.Is(err, unix.ENOENT), "%v", err)
}
