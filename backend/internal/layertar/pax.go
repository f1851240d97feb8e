package layertar

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// xattrPrefix marks PAX records that hold extended attributes; star and GNU tar invented it.
const xattrPrefix = "SCHILY.xattr."

// extension is what the extension headers before an entry say about it. Numbers stay text until
// the entry is complete: an empty value keeps what the header block says.
type extension struct {
	path, link     string // PAX
	size, uid, gid string
	mtime, atime   string
	xattrs         []xattr
	sparse         paxSparse
	longName       string // GNU, wins over PAX
	longLink       string
}

// setPAX replaces all PAX records of x by those in data. Records that we have no use for are
// checked and forgotten.
func (x *extension) setPAX(data string) error {
	*x = extension{longName: x.longName, longLink: x.longLink}
	for data != "" {
		key, value, rest, err := cutRecord(data)
		if err != nil {
			return err
		}
		data = rest
		if err := x.record(key, value); err != nil {
			return err
		}
	}
	return nil
}

// cutRecord splits "LENGTH KEY=VALUE\n" off the front of data; LENGTH counts the whole record.
func cutRecord(data string) (key, value, rest string, err error) {
	digits, _, ok := strings.Cut(data, " ")
	if !ok || len(digits) > 8 {
		return "", "", "", badRecord(data)
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || n > uint64(len(data)) || n < uint64(len(digits))+2 || data[n-1] != '\n' {
		return "", "", "", badRecord(data)
	}
	key, value, ok = strings.Cut(data[len(digits)+1:n-1], "=")
	if !ok || key == "" || strings.Contains(key, "\x00") {
		return "", "", "", badRecord(data)
	}
	return key, value, data[n:], nil
}

func badRecord(data string) error {
	return fmt.Errorf("bad PAX record at %.40q: %w", data, errdefs.ErrInvalidArgument)
}

func (x *extension) record(key, value string) error {
	switch key {
	case "path":
		x.path = value
	case "linkpath":
		x.link = value
	case "size":
		x.size = value
	case "uid":
		x.uid = value
	case "gid":
		x.gid = value
	case "mtime":
		x.mtime = value
	case "atime":
		x.atime = value
	case "uname", "gname":
	default:
		if name, ok := strings.CutPrefix(key, xattrPrefix); ok {
			x.xattrs = append(x.xattrs, xattr{name, value})
			return nil
		}
		if name, ok := strings.CutPrefix(key, "GNU.sparse."); ok {
			return x.sparse.record(name, value)
		}
		return nil
	}
	if key != "size" && strings.Contains(value, "\x00") {
		return fmt.Errorf("PAX record %q contains a NUL: %w", key, errdefs.ErrInvalidArgument)
	}
	return nil
}

// apply works the extension into the entry, sparse maps excepted.
func (x *extension) apply(e *entry) error {
	for _, f := range []struct {
		name, value string
		to          *int64
	}{{"size", x.size, &e.size}, {"uid", x.uid, &e.uid}, {"gid", x.gid, &e.gid}} {
		if f.value == "" {
			continue
		}
		n, err := strconv.ParseInt(f.value, 10, 64)
		if err != nil {
			return fmt.Errorf("PAX %s %q: %w", f.name, f.value, errdefs.ErrInvalidArgument)
		}
		*f.to = n
	}
	var err error
	if x.mtime != "" {
		if e.mtime, err = parseStamp(x.mtime); err != nil {
			return err
		}
	}
	if x.atime != "" {
		if e.atime, err = parseStamp(x.atime); err != nil {
			return err
		}
	}
	e.xattrs = x.xattrs
	e.name = first(x.longName, x.path, e.name)
	e.link = first(x.longLink, x.link, e.link)
	return nil
}

// first returns the first string that is not empty.
func first(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

// parseStamp reads seconds with an optional fraction, of which nine digits count.
func parseStamp(s string) (stamp, error) {
	bad := fmt.Errorf("PAX time %q: %w", s, errdefs.ErrInvalidArgument)
	whole, fraction, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return stamp{}, bad
	}
	var nsec int64
	for i := range max(9, len(fraction)) {
		digit := byte('0')
		if i < len(fraction) {
			digit = fraction[i]
		}
		if digit < '0' || digit > '9' {
			return stamp{}, bad
		}
		if i < 9 {
			nsec = nsec*10 + int64(digit-'0')
		}
	}
	if strings.HasPrefix(s, "-") && nsec > 0 {
		return stamp{sec - 1, 1e9 - nsec}, nil
	}
	return stamp{sec, nsec}, nil
}
