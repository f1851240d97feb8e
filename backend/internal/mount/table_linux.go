package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"

	"strata/backend/internal/dirfd"
	"strata/backend/mounttable"
)

// Below lists the mounts on dir and in it, deepest first and of several on one target the topmost
// first: the order to unmount them in. Targets start with dir as it was given, even if that leads
// through symbolic links. Nothing if dir does not exist.
func Below(dir string) ([]Info, error) {
	resolved, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list mounts below %s: %w", dir, err)
	}
	if resolved, err = filepath.Abs(resolved); err != nil {
		return nil, fmt.Errorf("list mounts below %s: %w", dir, err)
	}
	entries, err := mounttable.Read(mountinfo.PrefixFilter(resolved))
	if err != nil {
		return nil, fmt.Errorf("list mounts below %s: %w", dir, err)
	}
	infos := make([]Info, 0, len(entries))
	for i := len(entries) - 1; i >= 0; i-- { // the table lists a mount after the one it covers
		info := describe(entries[i])
		info.Target = filepath.Join(dir, strings.TrimPrefix(info.Target, resolved))
		infos = append(infos, info)
	}
	sort.SliceStable(infos, func(i, j int) bool {
		return strings.Count(infos[i].Target, "/") > strings.Count(infos[j].Target, "/")
	})
	return infos, nil
}

// Mounted reports whether something is mounted on target, symbolic links resolved. It reads the
// mount table only where the kernel has no quicker answer. A target that does not exist is not
// mounted.
func Mounted(target string) (bool, error) {
	mounted, sure, err := mountinfo.MountedFast(target)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err == nil && !sure {
		var on []Info
		on, err = Below(target)
		mounted = slices.ContainsFunc(on, func(i Info) bool { return i.Target == filepath.Clean(target) })
	}
	if err != nil {
		return false, fmt.Errorf("look for a mount on %s: %w", target, err)
	}
	return mounted, nil
}

// InHost reports whether this thread is in the mount namespace of the machine's first process, as far as one in a container
// can tell.
func InHost() bool {
	if os.Getpid() == 1 {
		return false
	}
	first, err := os.Readlink("/proc/1/ns/mnt")
	own, errOwn := os.Readlink("/proc/thread-self/ns/mnt")
	return err == nil && errOwn == nil && first == own
}

// On returns the mount that dir lies on.
func On(dir string) (Info, error) {
	id, err := mountID(dir)
	if err != nil {
		return Info{}, fmt.Errorf("find mount of %s: %w", dir, err)
	}
	entry, err := entryOf(id)
	if err != nil {
		return Info{}, fmt.Errorf("find mount of %s: %w", dir, err)
	}
	return describe(entry), nil
}

// entryOf returns the line of the mount table that has this number.
func entryOf(id int) (*mountinfo.Info, error) {
	entries, err := mounttable.Read(func(i *mountinfo.Info) (skip, stop bool) {
		return i.ID != id, i.ID == id
	})
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("mount %d is not in the mount table", id)
	}
	return entries[0], nil
}

// mountID returns the number that the mount table gives to the mount of path.
func mountID(path string) (int, error) {
	f, err := open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	id, err := dirfd.MountID(int(f.Fd()))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(id)
}

func describe(i *mountinfo.Info) Info {
	return Info{
		Target: i.Mountpoint, Type: i.FSType, Source: i.Source, Root: i.Root,
		Options: i.Options, Super: i.VFSOptions,
	}
}
