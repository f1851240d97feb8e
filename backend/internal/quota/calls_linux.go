package quota

import (
	"errors"
	"fmt"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From include/uapi/linux/quota.h, dqblk_xfs.h and fs.h, and QCMD in fs/quota/quota.c.
const (
	projectType = 2
	xGetQuota   = 'X'<<8 + 3
	xSetLimit   = 'X'<<8 + 4
	xGetStateV  = 'X'<<8 + 8

	flagProject = 1 << 1            // FS_PROJ_QUOTA, in diskQuota.Flags
	maskLimits  = 1<<2 | 1<<3       // FS_DQ_BSOFT, FS_DQ_BHARD
	bothProject = 1<<4 | 1<<5       // FS_QUOTA_PDQ_ACCT, FS_QUOTA_PDQ_ENFD
	flagInherit = 0x200             // FS_XFLAG_PROJINHERIT
	getXattr    = 0x801c581f        // FS_IOC_FSGETXATTR, 28 bytes
	setXattr    = 0x401c5820        // FS_IOC_FSSETXATTR
	blockSize   = 512               // of diskQuota's counters
	stateSize   = 256               // more than struct fs_quota_statv has
	maxBytes    = math.MaxInt64 / 2 // beyond any file system
)

// diskQuota is struct fs_disk_quota.
type diskQuota struct {
	Version                             int8
	Flags                               int8
	Fieldmask                           uint16
	ID                                  uint32
	BlkHard, BlkSoft                    uint64
	InoHard, InoSoft                    uint64
	Bcount, Icount                      uint64
	Itimer, Btimer                      int32
	Iwarns, Bwarns                      uint16
	ItimerHi, BtimerHi, RtbtimerHi, Pad int8
	RtbHard, RtbSoft, Rtbcount          uint64
	Rtbtimer                            int32
	Rtbwarns                            uint16
	Pad3                                int16
	Pad4                                [8]byte
}

func (q diskQuota) unused() bool {
	return q.BlkHard|q.BlkSoft|q.InoHard|q.InoSoft|q.Bcount|q.Icount == 0
}

// attributes is struct fsxattr.
type attributes struct {
	Xflags, Extsize, Nextents, Projid, Cowextsize uint32
	Pad                                           [8]byte
}

// getState returns the qs_flags of the file system.
func getState(f *os.File) (uint16, error) {
	var buf [stateSize / 8]uint64
	b := unsafe.Slice((*byte)(unsafe.Pointer(&buf)), stateSize)
	b[0] = 1 // FS_QSTATV_VERSION1
	if err := call(f, xGetStateV, 0, unsafe.Pointer(&buf)); err != nil {
		return 0, err
	}
	return *(*uint16)(unsafe.Pointer(&b[2])), nil
}

// getQuota returns a zero value for a project that there is no record of.
func getQuota(f *os.File, id uint32) (diskQuota, error) {
	var q diskQuota
	err := call(f, xGetQuota, id, unsafe.Pointer(&q))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return diskQuota{}, nil
	}
	return q, err
}

// setLimit limits a project to so many bytes. A limit of 0 is none.
func setLimit(f *os.File, id uint32, bytes int64) error {
	blocks := (uint64(min(bytes, maxBytes)) + blockSize - 1) / blockSize
	q := diskQuota{Version: 1, Flags: flagProject, Fieldmask: maskLimits, ID: id, BlkHard: blocks, BlkSoft: blocks}
	return call(f, xSetLimit, id, unsafe.Pointer(&q))
}

// call is quotactl_fd(2) or, on kernels before 5.14, quotactl(2) with a device node made for it.
func call(f *os.File, command uintptr, id uint32, arg unsafe.Pointer) error {
	command = command<<8 | projectType
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, f.Fd(), command, uintptr(id), uintptr(arg), 0, 0)
	switch {
	case errno == 0:
		return nil
	case errno == unix.ENOSYS && !fdCallKnown():
		return callByDevice(f, command, id, arg)
	}
	return fmt.Errorf("quotactl_fd: %w", errno)
}

// fdCallKnown tells a kernel without quotactl_fd(2), or a seccomp filter that says so, from a file system without quota (do_quotactl in
// fs/quota/quota.c), which are both ENOSYS: a descriptor that cannot be is looked at before the file system.
func fdCallKnown() bool {
	const none = ^uintptr(0)
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, none, xGetStateV<<8|projectType, 0, 0, 0, 0)
	return errno != unix.ENOSYS
}

// nodeDir is where callByDevice makes its node. In a plugin's /dev there is none for the host's disks, and device nodes can be used there
// whatever the options of other mounts.
const nodeDir = "/dev"

// callByDevice makes a node of its own, which it does not open: a container may make any node, but open few.
func callByDevice(f *os.File, command uintptr, id uint32, arg unsafe.Pointer) (err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	dir, err := os.MkdirTemp(nodeDir, ".strata-quota-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	node := dir + "/device"
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(st.Dev)); err != nil {
		return &os.PathError{Op: "mknod", Path: node, Err: err}
	}
	name, err := unix.BytePtrFromString(node)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL, command, uintptr(unsafe.Pointer(name)), uintptr(id), uintptr(arg), 0, 0)
	if errno != 0 {
		return fmt.Errorf("quotactl: %w", errno)
	}
	return nil
}

func getAttributes(f *os.File) (attributes, error) {
	var a attributes
	return a, ioctl(f, getXattr, "get project of", unsafe.Pointer(&a))
}

func setAttributes(f *os.File, a attributes) error {
	return ioctl(f, setXattr, "set project of", unsafe.Pointer(&a))
}

func ioctl(f *os.File, request uintptr, op string, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg)); errno != 0 {
		return &os.PathError{Op: op, Path: f.Name(), Err: errno}
	}
	return nil
}
