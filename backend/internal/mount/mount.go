// Package mount is the only place that mounts and unmounts.
//
// [Mount] performs what a backend described as [backend.Mount]s, [Unmount] undoes it, [Below] and
// its relatives read the kernel's mount table. Nothing is remembered between calls, so all
// functions are safe for concurrent use; calls for one target must not overlap.
//
// # How mounts are made
//
// By the file-descriptor calls (fsopen, open_tree, mount_setattr, move_mount): a mount gets all its
// properties before anybody can see it, an overlay takes each lower directory in a call of its own
// (lowerdir+, at most 500: OVL_MAX_STACK, fs/overlayfs/params.h), and the kernel says what it did
// not like. Kernels or seccomp filters without those calls get mount(2), whose options must fit in
// one page; an overlay whose paths do not fit is given directories by descriptor number instead.
//
// # Options
//
// ro, nosuid, nodev, noexec, noatime, nodiratime, relatime, strictatime, nosymfollow and their
// opposites are properties of the mount. sync, dirsync and lazytime, and again ro, are properties of
// the file system. "defaults" means nothing. Anything else goes to the file system as it is.
//
// A type of "bind" shows a directory or file a second time, without the mounts below it, and takes
// properties of the mount only. It has the properties of the source's mount where no option differs.
//
// For an overlay, "lowerdir+=DIR" is one lower directory, topmost first. The colon-separated
// "lowerdir=" is refused.
//
// "X-mount.idmap=MAP" shows the files of a bind, or of the lower directory named directly before
// it, with other owners. MAP is what mount(8) takes: ranges TYPE:DISK:SHOWN:SIZE separated by
// spaces, TYPE being u, g or b for both. [IDMapOption] writes it. ErrNotImplemented from a kernel
// or a file system that cannot.
//
// "context=LABEL" and its relatives are SELinux labels, unquoted.
//
// # Propagation
//
// A new mount takes part in propagation exactly as the mount it is attached to; a bind is never a
// peer of its source, so what a container mounts in its root does not appear in the layer's own
// directory. (Where mount(2) had to be used, a bind of a shared mount stays its peer.)
package mount

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend"
)

// Info is one entry of the mount table.
type Info struct {
	Target  string // where it is mounted, absolute
	Type    string // file-system type
	Source  string // what is mounted, as given to mount(2)
	Root    string // the directory of the file system that is mounted
	Options string // properties of the mount, comma-separated
	Super   string // options of the file system, comma-separated, escaped as the kernel shows them
}

// idMapOption is the option that [IDMapOption] writes.
const idMapOption = "X-mount.idmap"

// IDMapOption returns the option that shows owners through m: an owner that m has as container ID
// on the disk is shown as the host ID.
func IDMapOption(m *backend.IDMap) string {
	words := make([]string, 0, len(m.UIDs)+len(m.GIDs))
	for _, r := range m.UIDs {
		words = append(words, fmt.Sprintf("u:%d:%d:%d", r.Container, r.Host, r.Size))
	}
	for _, r := range m.GIDs {
		words = append(words, fmt.Sprintf("g:%d:%d:%d", r.Container, r.Host, r.Size))
	}
	return idMapOption + "=" + strings.Join(words, " ")
}

func parseIDMap(value string) (*backend.IDMap, error) {
	m := &backend.IDMap{}
	for _, word := range strings.Fields(value) {
		kind, numbers, _ := strings.Cut(word, ":")
		r, err := parseRange(numbers)
		if err != nil {
			return nil, fmt.Errorf("id map %q: %w", word, err)
		}
		switch kind {
		case "u":
			m.UIDs = append(m.UIDs, r)
		case "g":
			m.GIDs = append(m.GIDs, r)
		case "b":
			m.UIDs, m.GIDs = append(m.UIDs, r), append(m.GIDs, r)
		default:
			return nil, fmt.Errorf("id map %q: want u:, g: or b: first: %w", word, errdefs.ErrInvalidArgument)
		}
	}
	if len(m.UIDs) == 0 || len(m.GIDs) == 0 {
		return nil, fmt.Errorf("id map %q: users or groups are missing: %w", value, errdefs.ErrInvalidArgument)
	}
	return m, nil
}

func parseRange(s string) (backend.IDRange, error) {
	fields := strings.Split(s, ":")
	if len(fields) != 3 {
		return backend.IDRange{}, fmt.Errorf("want three numbers: %w", errdefs.ErrInvalidArgument)
	}
	var n [3]uint32
	for i, f := range fields {
		v, err := strconv.ParseUint(f, 10, 32)
		if err != nil {
			return backend.IDRange{}, errors.Join(errdefs.ErrInvalidArgument, err)
		}
		n[i] = uint32(v)
	}
	if n[2] == 0 {
		return backend.IDRange{}, fmt.Errorf("an empty range: %w", errdefs.ErrInvalidArgument)
	}
	return backend.IDRange{Container: n[0], Host: n[1], Size: n[2]}, nil
}

// Harmless returns the options that a user may add to a mount of any file system: they decide neither what a layer holds
// nor who may write to it. None takes a value.
func Harmless() []string {
	return []string{
		"nodev", "nosuid", "noexec", "noatime", "nodiratime", "relatime", "strictatime", "nosymfollow", "sync", "dirsync", "lazytime",
	}
}
