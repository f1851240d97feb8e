package treediff

import (
	"errors"
	"maps"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// attributesDiffer compares the extended attributes that belong to the content.
func attributesDiffer(u, l *File) (bool, error) {
	a, err := u.attributes()
	if err != nil {
		return false, ignoreVanished(err)
	}
	b, err := l.attributes()
	if err != nil {
		return false, ignoreVanished(err)
	}
	return !maps.Equal(a, b), nil
}

// attributes returns nil for a file without any.
func (f *File) attributes() (map[string]string, error) {
	names, err := f.read("list extended attributes of", func(buf []byte) (int, error) { return f.Dir.ListXattrs(f.Name, buf) })
	if names == "" || err != nil {
		return nil, err
	}
	found := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(names, "\x00"), "\x00") {
		if !compared(name, f.Marks) {
			continue
		}
		found[name], err = f.read("read extended attribute "+name+" of", func(buf []byte) (int, error) { return f.Dir.Xattr(f.Name, name, buf) })
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// read calls get with a buffer, and with the largest there can be if the answer does not fit.
func (f *File) read(op string, get func(buf []byte) (int, error)) (string, error) {
	var small [256]byte
	n, err := get(small[:])
	switch {
	case err == nil:
		return string(small[:n]), nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENODATA): // ENODATA: removed since listed
		return "", nil
	case errors.Is(err, unix.ERANGE):
		large := make([]byte, 64<<10) // XATTR_LIST_MAX and XATTR_SIZE_MAX, include/uapi/linux/limits.h
		if n, err = get(large); err == nil {
			return string(large[:n]), nil
		}
	}
	return "", &os.PathError{Op: op, Path: f.Path(), Err: err}
}
