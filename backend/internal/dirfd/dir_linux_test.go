package dirfd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
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
		fd, err := openComparing(d.FD, name, unix.O_DIRECTORY)
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
	d, err := Open(dir)
	assert.NilError(t, err)
	defer d.Close()
	large := bytes.Repeat([]byte("v"), 2000)
	for name, want := range map[string]string{"file": "trusted.file", "link": "trusted.link"} {
		f := d.File(name)
		assert.NilError(t, f.SetXattr(want, large))
		got, err := f.Xattrs(nil)
		assert.NilError(t, err)
		assert.DeepEqual(t, got, []Xattr{{want, large}})
		got, err = f.Xattrs(func(string) bool { return false })
		assert.NilError(t, err)
		assert.Equal(t, len(got), 0)
		_, ok, err := f.Xattr("trusted.other")
		assert.NilError(t, err)
		assert.Assert(t, !ok)
		var a, b [100]byte
		n, err := f.list(a[:])
		assert.NilError(t, err)
		assert.Equal(t, string(a[:n]), want+"\x00")
		n, err = unix.Llistxattr(d.Proc(name), b[:])
		assert.NilError(t, err)
		assert.Equal(t, string(b[:n]), want+"\x00")
		_, err = f.list(a[:3])
		assert.Assert(t, errors.Is(err, unix.ERANGE), "%v", err)
		assert.NilError(t, f.RemoveXattr(want))
		assert.NilError(t, f.RemoveXattr(want))
	}
	_, err = d.File("missing").Xattrs(nil)
	assert.ErrorIs(t, err, unix.ENOENT)
	assert.ErrorContains(t, err, filepath.Join(dir, "missing"))
}

// TestXattrsMany holds that lists and values of any size that Linux has are read, of an open file, too.
func TestXattrsMany(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: sets trusted attributes")
	}
	dir := t.TempDir()
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	d, err := Open(dir)
	assert.NilError(t, err)
	defer d.Close()
	fd, err := d.OpenFile("file")
	assert.NilError(t, err)
	defer unix.Close(fd)
	for i := range 40 {
		assert.NilError(t, d.Opened("file", fd).SetXattr(fmt.Sprintf("trusted.attribute-%02d", i), []byte{byte(i)}))
	}
	for _, f := range []File{d.File("file"), d.Opened("file", fd)} {
		list, err := f.Xattrs(func(name string) bool { return name != "trusted.attribute-07" })
		assert.NilError(t, err)
		assert.Equal(t, len(list), 39)
		for i, x := range list {
			if i >= 7 {
				i++
			}
			assert.Equal(t, x.Name, fmt.Sprintf("trusted.attribute-%02d", i))
			assert.DeepEqual(t, x.Value, []byte{byte(i)})
		}
	}
}
