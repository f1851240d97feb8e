package dirsink

import (
	"golang.org/x/sys/unix"

	"strata/backend/internal/layertar/openat"
)

const (
	// maxDirs is how many directories an Apply keeps open. More than maxJobs, so that one is always idle.
	maxDirs = 128
	// minDirs are what most entries need at the same time: their directory, that of their target and those on the way there.
	minDirs = 4
	// dirsShare is the part of the descriptors that a process may have which an Apply keeps for directories. There may be several.
	dirsShare = 8
)

// roomForDirs is how many directories an Apply keeps open in this process.
func roomForDirs() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return minDirs
	}
	return int(min(max(limit.Cur/dirsShare, minDirs), maxDirs))
}

// openDir opens a directory. Where too many files are open it closes directories that are idle, and keeps fewer from then on.
func (t *tree) openDir(open func() (int, error)) (int, error) {
	for {
		fd, err := open()
		if !openat.NoDescriptor(err) {
			return fd, err
		}
		t.room = max(len(t.dirs)/2, minDirs)
		if len(t.dirs) < t.room {
			return openat.Patiently(open)
		}
		before := len(t.dirs)
		if err := t.makeRoom(); err != nil {
			return -1, err
		}
		if len(t.dirs) == before { // all are in use
			return openat.Patiently(open)
		}
	}
}
