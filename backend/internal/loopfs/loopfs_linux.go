package loopfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// commandTimeout bounds mkfs, mount and umount; all of them take well under a second.
const commandTimeout = 2 * time.Minute

// loopPatience is how long a loop device may stay busy after its file system was unmounted: whoever
// looks at all block devices of the machine meanwhile, such as blkid, keeps it open.
const loopPatience = 20 * time.Second

// New makes a file system of the given kind ("ext4", "xfs", "btrfs", "zfs" or "tmpfs") of size bytes
// on a sparse file and a loop device of its own, mounts it in a private place and returns where.
// mountOptions are as for mount -o, "" for none; with prjquota, ext4 is made with project quota. The
// sparse file is in memory, where a flush costs nothing, but that of a benchmark on disk. With "zfs" it is
// a pool on that file, without a loop device; the test is skipped if the kernel has no ZFS, unless
// STRATA_TEST_ZFS says that it must.
//
// The test's clean-up unmounts it and gives the loop device back. Mounts that are left below it,
// or a device that stays busy, fail the test, and are torn down all the same. It skips the test if
// it does not run as root.
func New(t testing.TB, kind string, size int64, mountOptions string) string {
	t.Helper()
	RequireRoot(t)
	if kind == "tmpfs" {
		return Mount(t, "", kind, size, mountOptions)
	}
	dir := t.TempDir()
	if _, measured := t.(*testing.B); !measured {
		dir = Mount(t, "", "tmpfs", size, "")
	}
	image := filepath.Join(dir, "image")
	if kind == "zfs" {
		return poolOn(t, image, size)
	}
	Make(t, image, kind, size, mountOptions)
	return Mount(t, image, kind, size, mountOptions)
}

// Make writes an empty file system to a new sparse file.
func Make(t testing.TB, image, kind string, size int64, mountOptions string) {
	t.Helper()
	makeSparse(t, image, size)
	args := map[string][]string{
		"ext4":  {"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,nodiscard"},
		"xfs":   {"mkfs.xfs", "-q", "-f", "-K"},
		"btrfs": {"mkfs.btrfs", "-q", "-f", "-K"},
	}[kind]
	if args == nil {
		t.Fatalf("no file system of kind %q", kind)
	}
	if kind == "ext4" && strings.Contains(mountOptions, "prjquota") {
		args = append(args, "-O", "quota,project")
	}
	Command(t, append(args, image)...)
}

// makeSparse makes an empty file that looks size bytes long.
func makeSparse(t testing.TB, image string, size int64) {
	t.Helper()
	f, err := os.Create(image)
	if err == nil {
		err = f.Truncate(size)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		t.Fatalf("make image: %v", err)
	}
}

// Mount mounts an image, or a tmpfs, until the test ends.
func Mount(t testing.TB, image, kind string, size int64, mountOptions string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "fs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	options, source := "loop", image
	if kind == "tmpfs" {
		options, source = fmt.Sprintf("size=%d", size), "tmpfs"
	}
	if mountOptions != "" {
		options += "," + mountOptions
	}
	Command(t, "mount", "-t", kind, "-o", options, source, dir)
	t.Cleanup(func() { releaseImage(t, image, dir) })
	return dir
}

// releaseImage unmounts dir and waits until the loop device of image is free.
func releaseImage(t testing.TB, image, dir string) {
	t.Helper()
	below, err := MountsBelow(dir)
	if err != nil {
		t.Errorf("list mounts: %v", err)
	}
	for i := len(below) - 1; i >= 0; i-- {
		if below[i] == dir {
			continue
		}
		t.Errorf("mount left behind: %s", below[i])
		if err := unix.Unmount(below[i], unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", below[i], err)
		}
	}
	err = unmountSoon(dir)
	pinned := func() bool {
		pinning := processesWith(dir)
		if len(pinning) > 0 {
			t.Logf("%s stays in use: processes in other mount namespaces have it mounted: %s", dir, strings.Join(pinning, " "))
		}
		return len(pinning) > 0
	}
	if err != nil && !pinned() {
		t.Errorf("%v", err)
	}
	if image == "" {
		return
	}
	for deadline := time.Now().Add(loopPatience); ; time.Sleep(20 * time.Millisecond) {
		left := Devices(image)
		if len(left) == 0 || pinned() {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("loop devices left behind: %s", strings.Join(left, " "))
			return
		}
	}
}

// processesWith lists the processes in whose mount namespace there is a mount on dir. Whoever makes
// a namespace of its own, such as a container that starts, copies all mounts of the machine into it
// and keeps them for as long as it lives.
func processesWith(dir string) (found []string) {
	tables, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	if err != nil {
		panic(err) // the pattern is constant
	}
	for _, table := range tables {
		text, err := os.ReadFile(table)
		if err == nil && strings.Contains(string(text), " "+dir+" ") {
			found = append(found, filepath.Base(filepath.Dir(table)))
		}
	}
	return found
}

// unmountSoon unmounts dir, waiting for the kernel to let go of files just closed, and of threads that end: on a busy machine
// that takes seconds. A mount that stays busy is detached, so that the machine stays clean, and reported.
func unmountSoon(dir string) error {
	var err error
	for deadline := time.Now().Add(loopPatience); ; time.Sleep(20 * time.Millisecond) {
		if err = unix.Unmount(dir, 0); err != unix.EBUSY || time.Now().After(deadline) {
			break
		}
	}
	if err == nil {
		return nil
	}
	if derr := unix.Unmount(dir, unix.MNT_DETACH); derr != nil {
		return fmt.Errorf("detach %s: %w", dir, derr)
	}
	return fmt.Errorf("unmount %s: %w", dir, err)
}

// MountsBelow returns the mount points at and below dir, outermost first. It reads the mount table
// whatever the length of its lines: a mount of hundreds of layers that another test has made takes
// more than the 64 KiB that a bufio.Scanner puts up with.
func MountsBelow(dir string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`) // fs/proc_namespace.c, mangle
	var points []string
	for _, line := range strings.Split(string(table), "\n") {
		fields := strings.SplitN(line, " ", 6)
		if len(fields) < 6 {
			continue
		}
		if point := unescape.Replace(fields[4]); point == dir || strings.HasPrefix(point, dir+"/") {
			points = append(points, point)
		}
	}
	return points, nil
}

// Devices returns the loop devices whose backing file lies at or below path.
func Devices(path string) []string {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		panic(err) // the pattern is constant
	}
	var found []string
	for _, f := range files {
		backing, err := os.ReadFile(f)
		if err == nil && strings.HasPrefix(string(backing), path) {
			found = append(found, "/dev/"+filepath.Base(filepath.Dir(filepath.Dir(f))))
		}
	}
	return found
}

// Command runs a program that must succeed.
func Command(t testing.TB, args ...string) {
	t.Helper()
	out, err := tool(args...)
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// RequireRoot skips a test that does not run as root.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes and mounts file systems")
	}
}
