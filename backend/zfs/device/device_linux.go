package device

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend/internal/dirfd"
)

// Numbers and offsets are those of include/sys/fs/zfs.h (zfs_ioc) and include/sys/zfs_ioctl.h (zfs_cmd_t)
// of OpenZFS, where they are the same from 0.8 to 2.4; the fields that have moved lie behind these.
const (
	requestSnapshot   = 0x5a23 // ZFS_IOC_SNAPSHOT
	requestObjectPath = 0x5a25 // ZFS_IOC_OBJ_TO_PATH
	requestDiff       = 0x5a36 // ZFS_IOC_DIFF
	requestDestroy    = 0x5a3b // ZFS_IOC_DESTROY_SNAPS
	requestClone      = 0x5a42 // ZFS_IOC_CLONE

	offsetName   = 0     // zc_name, MAXPATHLEN bytes
	offsetInput  = 4096  // zc_nvlist_src, and its size
	offsetOutput = 4112  // zc_nvlist_dst, and its size
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

// Device is /dev/zfs. It may be used concurrently.
type Device struct {
	file *os.File
	ask  func(number uintptr, c *request) error // passes a request to the kernel and returns its errno
}

// Open opens the device. ErrFailedPrecondition, with what to do about it, if that is not possible.
func Open() (*Device, error) {
	f, err := os.OpenFile("/dev/zfs", os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%w: load the kernel's zfs module; a managed plugin also needs docker plugin set PLUGIN zfs.path=/dev/zfs: %w", err, errdefs.ErrFailedPrecondition)
	case err != nil:
		return nil, fmt.Errorf("open zfs: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return &Device{file: f, ask: func(number uintptr, c *request) error { return do(f, number, c) }}, nil
}

// Close closes the device.
func (d *Device) Close() error { return d.file.Close() }

func do(f *os.File, number uintptr, c *request) error {
	return dirfd.Retry(func() error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), number, uintptr(unsafe.Pointer(c))) //nolint:gosec // that is how the kernel takes it
		runtime.KeepAlive(c)
		if errno != 0 {
			return errno
		}
		return nil
	})
}

// Probe tells whether this kernel takes the file to write changed objects to from where [Device.Changed] puts it.
// It asks for a comparison of two snapshots that do not exist, below a dataset that does, once with a descriptor that is
// open and once with one that cannot be: only the second is EBADF. Nothing changes. An error tells what came instead.
func (d *Device) Probe(dataset string) error {
	fd, err := unix.MemfdCreate("zfs-probe", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	from, to := dataset+"@strata-no-from", dataset+"@strata-no-to"
	if len(to) >= maxName {
		return fmt.Errorf("dataset %.64s: its name is too long: %w", dataset, errdefs.ErrInvalidArgument)
	}
	if err := d.diff(from, to, math.MaxInt32); !errors.Is(err, unix.EBADF) {
		return unexpected("not open", err)
	}
	if err := d.diff(from, to, uint64(fd)); err == nil || errors.Is(err, unix.EBADF) {
		return unexpected("open", err)
	}
	return nil
}

// unexpected says what the kernel has answered to a descriptor in a state.
func unexpected(state string, err error) error {
	answer := "nothing"
	if err != nil {
		answer = err.Error()
	}
	return fmt.Errorf("the kernel answers %s to a descriptor that is %s: %w", answer, state, errdefs.ErrNotImplemented)
}

// diff has the kernel write to a file which objects changed between two snapshots.
func (d *Device) diff(from, to string, fd uint64) error {
	c := &request{}
	c.text(offsetName, to)
	c.text(offsetValue, from)
	c.number(offsetCookie, fd)
	return d.ask(requestDiff, c)
}

// call makes a request whose arguments are a list. Errors of single arguments come back in an output list; each request
// has one argument, so the errno is enough.
func (d *Device) call(number uintptr, name string, input []Pair) error {
	const enough = 64 << 10
	in, out := packList(input), make([]byte, enough)
	var pin runtime.Pinner // the request holds their addresses as numbers
	defer pin.Unpin()
	pin.Pin(&in[0])
	pin.Pin(&out[0])
	c := &request{}
	c.text(offsetName, name)
	c.number(offsetInput, uint64(uintptr(unsafe.Pointer(&in[0])))) //nolint:gosec // that is how the kernel takes it
	c.number(offsetInput+8, uint64(len(in)))
	c.number(offsetOutput, uint64(uintptr(unsafe.Pointer(&out[0])))) //nolint:gosec // as above
	c.number(offsetOutput+8, uint64(len(out)))
	err := d.ask(number, c)
	switch {
	case errors.Is(err, unix.EEXIST):
		err = fmt.Errorf("%w: %w", err, errdefs.ErrAlreadyExists)
	case errors.Is(err, unix.ENOENT):
		err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	case errors.Is(err, unix.EAGAIN):
		err = fmt.Errorf("%w: the pool does no input and output, see zpool status: %w", err, errdefs.ErrUnavailable)
	}
	return err
}

// Clone makes a dataset of a snapshot, with properties of its own. ErrAlreadyExists, ErrNotFound, EXDEV for a snapshot in another
// pool. When it returns, the dataset survives a power cut; so it is with the others.
func (d *Device) Clone(dataset, origin string, properties []Pair) error {
	if err := d.call(requestClone, dataset, []Pair{{"origin", origin}, {"props", properties}}); err != nil {
		return fmt.Errorf("clone %s as %s: %w", origin, dataset, err)
	}
	return nil
}

// Snapshot makes a snapshot. ErrAlreadyExists, ErrNotFound.
func (d *Device) Snapshot(name string) error {
	if err := d.call(requestSnapshot, PoolName(name), []Pair{{"snaps", []Pair{{name, nil}}}}); err != nil {
		return fmt.Errorf("make snapshot %s: %w", name, err)
	}
	return nil
}

// Destroy destroys a snapshot, or marks it to go with its last clone. No error if there is none. EEXIST if it has clones and
// is not to wait for them, EBUSY if it is held.
func (d *Device) Destroy(snapshot string, deferred bool) error {
	input := []Pair{{"snaps", []Pair{{snapshot, nil}}}}
	if deferred {
		input = append(input, Pair{"defer", nil})
	}
	if err := d.call(requestDestroy, PoolName(snapshot), input); err != nil {
		return fmt.Errorf("destroy snapshot %s: %w", snapshot, err)
	}
	return nil
}

// PoolName returns the pool that a dataset or snapshot lies in.
func PoolName(name string) string {
	if i := strings.IndexAny(name, "/@"); i >= 0 {
		return name[:i]
	}
	return name
}

// Changed returns the objects in use that may have changed from one snapshot to a later one of the same dataset or of
// a clone; others that share a block with them may be among them, too. EXDEV if the second does not descend from the
// first.
func (d *Device) Changed(from, to string) (objects []uint64, err error) {
	if len(from) >= maxName || len(to) >= maxName {
		return nil, fmt.Errorf("compare %.64s and %.64s: names are too long: %w", from, to, errdefs.ErrInvalidArgument)
	}
	fd, err := unix.MemfdCreate("zfs-diff", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	records := os.NewFile(uintptr(fd), "records")
	defer records.Close()
	if err := d.diff(from, to, uint64(fd)); err != nil {
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
	recordInUse = 2 // DDR_INUSE
	recordFree  = 4 // DDR_FREE
	// maxObjects bounds what a damaged answer can ask for.
	maxObjects = 1 << 28
)

func parseRecords(text []byte) (objects []uint64, err error) {
	for ; len(text) >= recordSize; text = text[recordSize:] {
		kind, first, last := binary.NativeEndian.Uint64(text), binary.NativeEndian.Uint64(text[8:]), binary.NativeEndian.Uint64(text[16:])
		switch kind {
		case recordInUse:
		case recordFree: // what is free now is of no interest
			continue
		default:
			return nil, fmt.Errorf("changed objects: record of kind %d: %w", kind, errdefs.ErrInternal)
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

// Exists tells whether there is a snapshot of a file system of that name.
func (d *Device) Exists(snapshot string) (bool, error) {
	c := &request{}
	c.text(offsetName, snapshot)
	c.number(offsetObject, masterNode)
	err := d.ask(requestObjectPath, c)
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err == nil, errors.Is(err, unix.ENOTSUP):
		return true, nil
	}
	return false, fmt.Errorf("look for %s: %w", snapshot, err)
}

// Outcomes of [Device.Path] besides a path.
var (
	ErrNoFile = errors.New("not a file with a name") // ENOTSUP; ESTALE: it is deleted and still open
	ErrAstray = errors.New("the file's way up is not known")
)

// Path returns a path of the object in a snapshot. The file system knows of each file the directory where it got its
// last name, also after that name was removed: ErrAstray.
func (d *Device) Path(snapshot string, object uint64) (string, error) {
	c := &request{}
	c.text(offsetName, snapshot)
	c.number(offsetObject, object)
	err := d.ask(requestObjectPath, c)
	switch {
	case err == nil:
		path, _, _ := bytes.Cut(c[offsetValue:offsetValue+maxPath], []byte{0})
		return string(path), nil
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ESTALE):
		return "", ErrNoFile
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG):
		return "", ErrAstray
	}
	return "", fmt.Errorf("path of object %d in %s: %w", object, snapshot, err)
}
