package engine

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Layer is an uncompressed layer tar in a file.
type Layer struct {
	Path   string
	DiffID string // sha256:...
	Size   int64  // of the tar, bytes
}

// epoch is the modification time of generated files: fixed, so that the same call gives the same
// bytes, and with a fraction of a second, which Docker has lost at times.
var epoch = time.Date(2024, 2, 29, 12, 30, 15, 123456789, time.UTC)

// WriteLayer makes a layer tar at path from what fill writes.
func WriteLayer(path string, fill func(*tar.Writer) error) (_ *Layer, err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	hash := sha256.New()
	buf := bufio.NewWriterSize(io.MultiWriter(f, hash), 1<<20)
	tw := tar.NewWriter(buf)
	if err := errors.Join(fill(tw), tw.Close(), buf.Flush()); err != nil {
		return nil, fmt.Errorf("write layer %s: %w", path, err)
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return &Layer{Path: path, DiffID: fmt.Sprintf("sha256:%x", hash.Sum(nil)), Size: st.Size()}, nil
}

// ReadLayer describes a layer tar that exists already.
func ReadLayer(path string) (*Layer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	hash := sha256.New()
	n, err := io.Copy(hash, f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read layer %s: %w", path, err)
	}
	return &Layer{Path: path, DiffID: fmt.Sprintf("sha256:%x", hash.Sum(nil)), Size: n}, nil
}

// AddDir adds a directory, 0755 and root's.
func AddDir(tw *tar.Writer, name string) error {
	return tw.WriteHeader(&tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: epoch, Format: tar.FormatPAX})
}

// AddFile adds a regular file, root's.
func AddFile(tw *tar.Writer, name string, mode int64, content []byte) error {
	h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(content)), ModTime: epoch, Format: tar.FormatPAX}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := tw.Write(content)
	return err
}

// applets are the busybox commands that the test images hold.
const applets = "sh ls cat sleep mkdir rm rmdir touch md5sum sha256sum find chown chmod dd true false " +
	"mv cp ln wc sort head tail grep sync id stat seq echo test env xargs tr printf mkfifo tee kill"

// FillBusybox writes a small root: the host's own static busybox, with links to it.
func FillBusybox(tw *tar.Writer) error {
	bin, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	for _, d := range []string{"bin", "etc", "home", "root", "tmp", "usr", "var"} {
		if err := AddDir(tw, d); err != nil {
			return err
		}
	}
	if err := AddFile(tw, "bin/busybox", 0o755, bin); err != nil {
		return err
	}
	for _, a := range strings.Fields(applets) {
		h := &tar.Header{Name: "bin/" + a, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777, ModTime: epoch, Format: tar.FormatPAX}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
	}
	return errors.Join(
		AddFile(tw, "etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")),
		AddFile(tw, "etc/group", 0o644, []byte("root:x:0:\nuser:x:1000:\n")))
}

// FillMany returns a function that writes n small files, 100 to a directory, below top. Their
// content comes from a fixed seed: 0 to 4095 bytes each, 2 KiB on average.
func FillMany(top string, n int) func(*tar.Writer) error {
	return func(tw *tar.Writer) error {
		rnd := rand.NewChaCha8([32]byte([]byte("strata: many small files, seeded")))
		sizes := rand.New(rnd)
		content := make([]byte, 4096)
		if err := AddDir(tw, top); err != nil {
			return err
		}
		for i := range n {
			dir := fmt.Sprintf("%s/d%03d", top, i/100)
			if i%100 == 0 {
				if err := AddDir(tw, dir); err != nil {
					return err
				}
			}
			c := content[:sizes.IntN(len(content))]
			if _, err := rnd.Read(c); err != nil {
				return err
			}
			if err := AddFile(tw, fmt.Sprintf("%s/f%05d", dir, i), 0o644, c); err != nil {
				return err
			}
		}
		return nil
	}
}

// FillBig returns a function that writes one file of the given size, incompressible.
func FillBig(name string, size int64) func(*tar.Writer) error {
	return func(tw *tar.Writer) error {
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size, ModTime: epoch, Format: tar.FormatPAX}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.CopyN(tw, rand.NewChaCha8([32]byte([]byte("strata: one big file, same bytes"))), size)
		return err
	}
}

// DebianRoot returns a layer with a Debian root: the minimal variant of bookworm and, as most
// images have, a language or two: some 13000 entries. It is made once, by debootstrap.
func DebianRoot(ctx context.Context, c *Cache) (*Layer, error) {
	dir, err := c.Entry(ctx, "debian-root", debootstrap)
	if err != nil {
		return nil, err
	}
	return ReadLayer(filepath.Join(dir, "layer.tar"))
}

func debootstrap(ctx context.Context, dir string) error {
	uri, err := mirror(ctx)
	if err != nil {
		return err
	}
	root := filepath.Join(dir, "root")
	for _, args := range [][]string{
		{"debootstrap", "--variant=minbase", "--include=git,perl,python3", "bookworm", root, uri},
		{
			"tar", "--create", "--file", filepath.Join(dir, "layer.tar"), "--directory", root, "--sort=name",
			"--numeric-owner", "--format=posix", "--exclude=./var/cache/apt/archives/*.deb", "--exclude=./dev/*", ".",
		},
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", args[0], err, out[max(0, len(out)-2000):])
		}
	}
	return os.RemoveAll(root)
}
