package mount

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
)

const (
	typeBind    = "bind"
	typeOverlay = "overlay"

	keyLower    = "lowerdir"
	keyAddLower = "lowerdir+"
	keyUpper    = "upperdir"
	keyWork     = "workdir"
)

// request is a backend.Mount with its options understood.
type request struct {
	kind   string
	source string
	set    uint64         // MOUNT_ATTR_ to switch on
	clear  uint64         // MOUNT_ATTR_ to switch off first
	super  []string       // flags of the file system: ro, sync, ...
	data   []option       // options of the file system, in order
	lowers []lower        // of an overlay, topmost first
	idMap  *backend.IDMap // of a bind
}

// option is an option of a file system; bare is one without "=".
type option struct {
	key, value string
	bare       bool
}

// lower is a lower directory of an overlay.
type lower struct {
	dir   string
	idMap *backend.IDMap // nil shows the owners as they are
}

// attribute is what an option word does to a mount, in both system calls' terms.
type attribute struct {
	set, clear uint64 // MOUNT_ATTR_
	flag       uintptr
}

// attributes returns the words that are properties of a mount.
func attributes() map[string]attribute {
	return map[string]attribute{
		"ro":          {set: unix.MOUNT_ATTR_RDONLY, flag: unix.MS_RDONLY},
		"rw":          {clear: unix.MOUNT_ATTR_RDONLY},
		"nosuid":      {set: unix.MOUNT_ATTR_NOSUID, flag: unix.MS_NOSUID},
		"suid":        {clear: unix.MOUNT_ATTR_NOSUID},
		"nodev":       {set: unix.MOUNT_ATTR_NODEV, flag: unix.MS_NODEV},
		"dev":         {clear: unix.MOUNT_ATTR_NODEV},
		"noexec":      {set: unix.MOUNT_ATTR_NOEXEC, flag: unix.MS_NOEXEC},
		"exec":        {clear: unix.MOUNT_ATTR_NOEXEC},
		"nodiratime":  {set: unix.MOUNT_ATTR_NODIRATIME, flag: unix.MS_NODIRATIME},
		"diratime":    {clear: unix.MOUNT_ATTR_NODIRATIME},
		"nosymfollow": {set: unix.MOUNT_ATTR_NOSYMFOLLOW, flag: unix.MS_NOSYMFOLLOW},
		"symfollow":   {clear: unix.MOUNT_ATTR_NOSYMFOLLOW},
		"noatime":     {unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR__ATIME, unix.MS_NOATIME},
		"strictatime": {unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME, unix.MS_STRICTATIME},
		"relatime":    {unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME, unix.MS_RELATIME},
		"atime":       {unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME, unix.MS_RELATIME},
	}
}

// superFlags returns the words that are flags of a file system, with their value in mount(2). The
// new calls take the words themselves (fs/fs_context.c, common_set_sb_flag).
func superFlags() map[string]uintptr {
	return map[string]uintptr{
		"ro":       unix.MS_RDONLY,
		"sync":     unix.MS_SYNCHRONOUS,
		"dirsync":  unix.MS_DIRSYNC,
		"lazytime": unix.MS_LAZYTIME,
	}
}

// parse understands a mount's options.
func parse(m backend.Mount) (*request, error) {
	r := &request{kind: m.Type, source: m.Source}
	attrs, super := attributes(), superFlags()
	for _, word := range m.Options {
		if strings.ContainsRune(word, 0) {
			return nil, fmt.Errorf("option %q of a %s mount has a zero byte: %w", word, m.Type, errdefs.ErrInvalidArgument)
		}
		if word == "defaults" || word == "" {
			continue
		}
		a, isAttr := attrs[word]
		_, isSuper := super[word]
		if isAttr {
			r.set, r.clear = r.set&^(a.set|a.clear)|a.set, r.clear|a.clear
		}
		if isSuper && m.Type != typeBind {
			r.super = append(r.super, word)
		}
		if isAttr || isSuper {
			continue
		}
		if err := r.add(word); err != nil {
			return nil, err
		}
	}
	if r.set&unix.MOUNT_ATTR_RDONLY == 0 { // "ro" and a later "rw"
		r.super = slices.DeleteFunc(r.super, func(word string) bool { return word == "ro" })
	}
	return r, r.check()
}

// add takes an option that is not a property of a mount.
func (r *request) add(word string) error {
	key, value, found := strings.Cut(word, "=")
	switch {
	case key == idMapOption:
		return r.addIDMap(value)
	case r.kind == typeBind:
		return fmt.Errorf("option %q of a bind mount: %w", word, errdefs.ErrInvalidArgument)
	case r.kind == typeOverlay && key == keyLower:
		return fmt.Errorf("option %q: want one %s= for each directory: %w", word, keyAddLower, errdefs.ErrInvalidArgument)
	case r.kind == typeOverlay && key == keyAddLower:
		r.lowers = append(r.lowers, lower{dir: value})
	default:
		r.data = append(r.data, option{key, value, !found})
	}
	return nil
}

func (r *request) addIDMap(value string) error {
	m, err := parseIDMap(value)
	if err != nil {
		return err
	}
	switch {
	case r.kind == typeBind:
		r.idMap = m
	case len(r.lowers) > 0:
		r.lowers[len(r.lowers)-1].idMap = m
	default:
		return fmt.Errorf("%s of a %s mount without a lower directory before it: %w", idMapOption, r.kind, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (r *request) check() error {
	if r.kind == "" {
		return fmt.Errorf("mount of %q has no type: %w", r.source, errdefs.ErrInvalidArgument)
	}
	if r.kind == typeOverlay && len(r.lowers) == 0 {
		return fmt.Errorf("overlay mount without a lower directory: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// flags returns the request's properties as flags of mount(2), those of the file system included.
func (r *request) flags() uintptr {
	var f uintptr
	for _, a := range attributes() {
		if a.set != 0 && r.set&a.set == a.set {
			f |= a.flag
		}
	}
	super := superFlags()
	for _, word := range r.super {
		f |= super[word]
	}
	return f
}

func (r *request) mapped() bool {
	for _, l := range r.lowers {
		if l.idMap != nil {
			return true
		}
	}
	return r.idMap != nil
}
