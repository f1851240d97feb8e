//go:build !linux

package backendtest

import (
	"os"
	"time"

	"github.com/containerd/errdefs"
)

// inode is what lstat tells of a file beyond what package os shows.
type inode struct {
	dev, ino uint64
	links    uint64
	uid, gid uint32
	rdev     uint64
	blocks   int64
}

func inodeOf(os.FileInfo) (inode, error) { return inode{}, errdefs.ErrNotImplemented }

func setTime(string, time.Time) error { return errdefs.ErrNotImplemented }

func setFlags(string, uint32) error { return errdefs.ErrNotImplemented }

func setXattr(string, string, string) error { return errdefs.ErrNotImplemented }

func removeXattr(string, string) error { return errdefs.ErrNotImplemented }

func xattrs(string) (map[string]string, error) { return nil, errdefs.ErrNotImplemented }

func makeNode(string, byte, os.FileMode, uint32, uint32) error { return errdefs.ErrNotImplemented }

func syncFS(string) error { return errdefs.ErrNotImplemented }

func freeBytes(string) (int64, error) { return 0, errdefs.ErrNotImplemented }

func descriptors() ([]string, error) { return nil, errdefs.ErrNotImplemented }

func writeMapped(string, int, []byte) error { return errdefs.ErrNotImplemented }

func punchHole(string, int64, int64) error { return errdefs.ErrNotImplemented }
