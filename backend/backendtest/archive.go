package backendtest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"strings"
)

// member is one entry of a tar.
type member struct {
	tar.Header
	body []byte
}

// file, dir, link and sym are short forms of the commonest members.
func file(name, body string) member {
	return member{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: old}, []byte(body)}
}

func directory(name string) member {
	return member{tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: old}, nil}
}

func link(target, name string) member {
	return member{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644, ModTime: old}, nil}
}

func sym(target, name string) member {
	return member{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: old}, nil}
}

// format returns the members in one tar format. Formats that know no fractions of a second get whole ones.
func format(f tar.Format, members []member) []member {
	out := make([]member, len(members))
	for i, m := range members {
		m.Format = f
		if f != tar.FormatPAX {
			m.ModTime = m.ModTime.Truncate(1e9)
		}
		out[i] = m
	}
	return out
}

// archive makes a tar. The members are constants of the tests, so a mistake in them panics.
func archive(members ...member) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		m.Size = int64(len(m.body))
		if m.Format == tar.FormatUnknown {
			m.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&m.Header); err != nil {
			panic(fmt.Sprintf("member %q: %v", m.Name, err))
		}
		if _, err := w.Write(m.body); err != nil {
			panic(fmt.Sprintf("member %q: %v", m.Name, err))
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// bigArchive is a tar with one file of size incompressible bytes.
func bigArchive(name string, size int) []byte {
	return archive(file(name, string(Noise(11, size))))
}

// memberNames lists the names in a tar, in order.
func memberNames(text []byte) ([]string, error) {
	var names []string
	r := tar.NewReader(bytes.NewReader(text))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return names, nil
		}
		if err != nil {
			return names, fmt.Errorf("read tar: %w", err)
		}
		names = append(names, strings.TrimSuffix(h.Name, "/"))
	}
}

// payload sums up the file sizes in a tar: what Apply returns.
func payload(text []byte) int64 {
	var sum int64
	r := tar.NewReader(bytes.NewReader(text))
	for {
		h, err := r.Next()
		if err != nil {
			return sum
		}
		if h.Typeflag == tar.TypeReg {
			sum += h.Size
		}
	}
}
