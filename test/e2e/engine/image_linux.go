package engine

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// The parts of Docker's image and archive formats that matter here (moby image/spec/v1.2.md).
type (
	imageConfig struct {
		Architecture string            `json:"architecture"`
		OS           string            `json:"os"`
		Config       map[string]any    `json:"config"`
		RootFS       imageRootFS       `json:"rootfs"`
		History      []map[string]bool `json:"history"`
	}
	imageRootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
	archiveItem struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
)

// WriteImage makes an archive for `docker load` at path: an image called tag of these layers, which runs a shell.
func WriteImage(path, tag string, layers ...*Layer) error {
	return WriteImageOf(path, tag, []string{"sh"}, layers...)
}

// WriteImageOf is WriteImage for one that runs another command.
func WriteImageOf(path, tag string, command []string, layers ...*Layer) (err error) {
	config := imageConfig{Architecture: "amd64", OS: "linux", RootFS: imageRootFS{Type: "layers"}}
	config.Config = map[string]any{
		"Cmd": command,
		"Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}
	item := archiveItem{RepoTags: []string{tag}}
	for i, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.DiffID)
		config.History = append(config.History, map[string]bool{})
		item.Layers = append(item.Layers, fmt.Sprintf("%d/layer.tar", i))
	}
	b, err := json.Marshal(config)
	if err != nil {
		return err
	}
	item.Config = fmt.Sprintf("%x.json", sha256.Sum256(b))
	manifest, err := json.Marshal([]archiveItem{item})
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	tw := tar.NewWriter(f)
	if err := errors.Join(AddFile(tw, item.Config, 0o644, b), AddFile(tw, "manifest.json", 0o644, manifest)); err != nil {
		return err
	}
	for i, l := range layers {
		if err := addTar(tw, item.Layers[i], l); err != nil {
			return fmt.Errorf("write image %s: %w", tag, err)
		}
	}
	return tw.Close()
}

func addTar(tw *tar.Writer, name string, l *Layer) error {
	f, err := os.Open(l.Path)
	if err != nil {
		return err
	}
	err = tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: l.Size, ModTime: epoch})
	if err == nil {
		_, err = io.Copy(tw, f)
	}
	return errors.Join(err, f.Close())
}

// Manifest describes what a tar holds: clean path -> all that must survive storage, in one line.
type Manifest map[string]string

// ReadManifest reads a tar to its end. Hard links are described as the file they lead to; the
// modification times of directories are left out, for a container's start touches some.
func ReadManifest(r io.Reader) (Manifest, error) {
	m := make(Manifest)
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r) // padding: who writes it must not see a broken pipe
			return m, err
		}
		if err != nil {
			return nil, fmt.Errorf("read tar: %w", err)
		}
		name := path.Clean("/" + h.Name)
		if h.Typeflag == tar.TypeLink {
			m[name] = m[path.Clean("/"+h.Linkname)]
			continue
		}
		line := fmt.Sprintf("%c %o %d:%d", h.Typeflag, h.Mode&0o7777, h.Uid, h.Gid)
		switch h.Typeflag {
		case tar.TypeReg:
			hash := sha256.New()
			if _, err := io.Copy(hash, tr); err != nil {
				return nil, fmt.Errorf("read tar: %s: %w", name, err)
			}
			// Docker's own export writes whole seconds for some formats.
			line += fmt.Sprintf(" %d %d %x", h.ModTime.Unix(), h.Size, hash.Sum(nil)[:8])
		case tar.TypeSymlink:
			line += " -> " + h.Linkname
		case tar.TypeChar, tar.TypeBlock:
			line += fmt.Sprintf(" %d,%d", h.Devmajor, h.Devminor)
		}
		for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
			if strings.HasPrefix(k, "SCHILY.xattr.") {
				line += fmt.Sprintf(" %s=%x", k, h.PAXRecords[k])
			}
		}
		m[name] = line
	}
}

// Without returns the manifest without the paths that Docker's init layer covers in every container.
func (m Manifest) Without(paths ...string) Manifest {
	paths = append(paths, "/", "/dev", "/dev/pts", "/dev/shm", "/dev/console", "/proc", "/sys", "/.dockerenv",
		"/etc", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab")
	out := maps.Clone(m)
	for _, p := range paths {
		delete(out, p)
	}
	return out
}

// Shift returns the manifest with all owners lowered by first, as a container sees them whose
// users are mapped to the IDs from there on. Lower ones stay as they are.
func (m Manifest) Shift(first int) Manifest {
	out := make(Manifest, len(m))
	for p, line := range m {
		f := strings.SplitN(line, " ", 4)
		var uid, gid int
		if n, err := fmt.Sscanf(f[2], "%d:%d", &uid, &gid); err == nil && n == 2 && uid >= first && gid >= first {
			f[2] = fmt.Sprintf("%d:%d", uid-first, gid-first)
		}
		out[p] = strings.Join(f, " ")
	}
	return out
}

// String lists the manifest in path order.
func (m Manifest) String() string {
	var b bytes.Buffer
	for _, p := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s %s\n", p, m[p])
	}
	return b.String()
}
