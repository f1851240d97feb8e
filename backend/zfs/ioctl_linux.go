package zfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Two requests to /dev/zfs for which zfs(8) has no command: the objects that changed between two snapshots,
// and the path of an object. `zfs diff` is made of the first and of a relative of the second, but leaves out
// without a word what it finds no path for.
//
// Numbers and offsets are those of include/sys/fs/zfs.h (zfs_ioc) and include/sys/zfs_ioctl.h (zfs_cmd_t)
// of OpenZFS, where they are the same from 0.8 to 2.4; the fields that have moved lie behind these.
const (
	requestObjectPath = 0x5a25 // ZFS_IOC_OBJ_TO_PATH
	requestDiff       = 0x5a36 // ZFS_IOC_DIFF

	offsetName   = 0     // zc_name, MAXPATHLEN bytes
	offsetValue  = 4144  // zc_value, 2*MAXPATHLEN bytes
	offsetCookie = 12616 // zc_cookie
	offsetObject = 12656 // zc_obj

	maxName = 4096
	maxPath = 2 * 4096
	// requestSize is more than any zfs_cmd_t has: the kernel copies as much as it knows of.
	requestSize = 32 << 10
)

// request is a zfs_cmd_t.
type request [requestSize]byte

func (c *request) text(offset int, s string) { copy(c[offset:], s) }

func (c *request) number(offset int, n uint64) { binary.NativeEndian.PutUint64(c[offset:], n) }

// device is /dev/zfs. It may be used concurrently.
type device struct{ file *os.File }

func openDevice() (device, error) {
	f, err := os.OpenFile("/dev/zfs", os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = fmt.Errorf("%w: load the kernel's zfs module; a managed plugin also needs docker plugin set PLUGIN zfs.path=/dev/zfs: %w", err, errdefs.ErrFailedPrecondition)
	case err != nil:
		err = fmt.Errorf("open zfs: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return device{f}, err
}

// Close closes the device.
func (d device) Close() error { return d.file.Close() }

func (d device) do(number uintptr, c *request) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.file.Fd(), number, uintptr(unsafe.Pointer(c))) //nolint:gosec // that is how the kernel takes it
		runtime.KeepAlive(c)
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

// changed returns the objects in use that may have changed from one snapshot to a later one of the same dataset or of
// a clone; others that share a block with them may be among them, too. EXDEV if the second does not descend from the
// first.
func (d device) changed(from, to string) (objects []uint64, err error) {
	if len(from) >= maxName || len(to) >= maxName {
		return nil, fmt.Errorf("compare %.64s and %.64s: names are too long: %w", from, to, errdefs.ErrInvalidArgument)
	}
	fd, err := unix.MemfdCreate("zfs-diff", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	records := os.NewFile(uintptr(fd), "records")
	defer records.Close()
	c := &request{}
	c.text(offsetName, to)
	c.text(offsetValue, from)
	c.number(offsetCookie, uint64(fd))
	if err := d.do(requestDiff, c); err != nil {
		return nil, fmt.Errorf("compare %s with %s: %w", to, from, err)
	}
	if _, err := records.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(records)
	if err != nil {
		return nil, err
	}
	return parseRecords(text)
}

// A dmu_diff_record_t (zfs_ioctl.h): a kind, the first and the last object of a range.
const (
	recordSize  = 24
	recordInUse = 2 // DDR_INUSE; what is free now is of no interest
	// maxObjects bounds what a damaged answer can ask for.
	maxObjects = 1 << 28
)

func parseRecords(text []byte) (objects []uint64, err error) {
	for ; len(text) >= recordSize; text = text[recordSize:] {
		kind, first, last := binary.NativeEndian.Uint64(text), binary.NativeEndian.Uint64(text[8:]), binary.NativeEndian.Uint64(text[16:])
		if kind != recordInUse {
			continue
		}
		if last < first || last-first >= maxObjects-uint64(len(objects)) {
			return nil, fmt.Errorf("changed objects from %d to %d: %w", first, last, errdefs.ErrInternal)
		}
		for ; first <= last; first++ {
			objects = append(objects, first)
		}
	}
	if len(text) > 0 {
		return nil, fmt.Errorf("changed objects: %d bytes too many: %w", len(text), errdefs.ErrInternal)
	}
	return objects, nil
}

// masterNode is the object that every file system has and that is no file (MASTER_NODE_OBJ).
const masterNode = 1

// exists tells whether there is a snapshot of a file system of that name.
func (d device) exists(snapshot string) (bool, error) {
	c := &request{}
	c.text(offsetName, snapshot)
	c.number(offsetObject, masterNode)
	err := d.do(requestObjectPath, c)
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err == nil, errors.Is(err, unix.ENOTSUP):
		return true, nil
	}
	return false, fmt.Errorf("look for %s: %w", snapshot, err)
}

// Outcomes of path besides a path.
var (
	errNoFile = errors.New("not a file with a name") // ENOTSUP; ESTALE: it is deleted and still open
	errAstray = errors.New("the file's way up is not known")
)

// path returns a path of the object in a snapshot. The file system knows of each file the directory where it got its
// last name, also after that name was removed: errAstray.
func (d device) path(snapshot string, object uint64) (string, error) {
	c := &request{}
	c.text(offsetName, snapshot)
	c.number(offsetObject, object)
	err := d.do(requestObjectPath, c)
	switch {
	case err == nil:
		path, _, _ := bytes.Cut(c[offsetValue:offsetValue+maxPath], []byte{0})
		return string(path), nil
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ESTALE):
		return "", errNoFile
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG):
		return "", errAstray
	}
	return "", fmt.Errorf("path of object %d in %s: %w", object, snapshot, err)
}
