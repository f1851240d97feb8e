package layertar

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/pkg/archive"
	"github.com/docker/docker/pkg/archive"
	"gotest.tools/v3/assert"
	"pgregory.net/rapid"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/internal/layertar/dirsink"
	"strata/backend/internal/layertar/tarlog"
	"strata/backend/internal/layertar/tartest"
	"strata/backend/internal/layertar/unpack"
)

// round is one random tar on its way through all unpackers.
type round struct {
	data   []byte
	log    string
	dir    string
	memory *backendtest.MemoryTree
}

// fill unpacks the tar into a sink, with a log.
func (r *round) fill(s backend.Sink) error {
	w, err := tarlog.Create(r.log)
	if err != nil {
		return err
	}
	if _, err := unpack.Apply(context.Background(), s, bytes.NewReader(r.data), unpack.Options{Log: w}); err != nil {
		return errors.Join(err, w.Abort())
	}
	return w.Close()
}

// replay holds that the log gives the tar back from a source.
func (r *round) replay(t *rapid.T, src backend.Source) {
	log, err := tarlog.Open(r.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var out bytes.Buffer
	if err := errors.Join(log.Replay(context.Background(), &out, src), src.Close()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), r.data) {
		t.Fatalf("%d bytes, want %d", out.Len(), len(r.data))
	}
}

// ours unpacks the tar into a directory and into memory, and reports whether it is accepted, which both
// decide alike.
func (r *round) ours(t *rapid.T) bool {
	inDir := r.fill(dirsink.New(r.dir, dirsink.Options{}))
	if inDir == nil {
		src, err := dirsink.Open(r.dir)
		if err != nil {
			t.Fatal(err)
		}
		r.replay(t, src)
	}
	inMemory := r.fill(r.memory.Sink())
	if (inDir == nil) != (inMemory == nil) {
		t.Fatalf("directory: %v\nmemory: %v", inDir, inMemory)
	}
	if inDir != nil {
		return false
	}
	r.replay(t, r.memory)
	same(t, "memory", snapshot(t, r.dir), r.memory.Snapshot(), nothing)
	return true
}

func snapshot(t *rapid.T, dir string) map[string]string {
	list, err := tartest.Snapshot(dir)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// nothing is no difference that is known.
func nothing(string, string, string) bool { return false }

// same compares two trees. known says which differences are.
func same(t *rapid.T, whose string, ours, theirs map[string]string, known func(path, ours, theirs string) bool) {
	for path, line := range ours {
		if theirs[path] != line && !known(path, line, theirs[path]) {
			t.Fatalf("%q:\n  directory %s\n  %s %s", path, line, whose, theirs[path])
		}
	}
	for path, line := range theirs {
		if _, ok := ours[path]; !ok && !known(path, "", line) {
			t.Fatalf("%q: only %s has it: %s", path, whose, line)
		}
	}
}

// emptyDir is what others make for a mark where there is nothing to hide.
const emptyDir = "40755 0:0"

// likeDocker returns the differences from Docker that a random tar, and those before it, show: the
// directory of a mark, and the mode of a hard link if a target is not written in its shortest form.
func likeDocker(detours bool) func(path, ours, theirs string) bool {
	return func(_, ours, theirs string) bool {
		if ours == "" {
			return theirs == emptyDir
		}
		_, oursBut, _ := strings.Cut(ours, " ")
		_, theirsBut, _ := strings.Cut(theirs, " ")
		return detours && oursBut == theirsBut && strings.Contains(ours, "same as")
	}
}

// hasDetours reports whether a hard link of a tar names its target by a detour, such as f/../g.
func hasDetours(data []byte) bool {
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if err != nil {
			return false // the end, or what follows it
		}
		if h.Typeflag == tar.TypeLink && strings.TrimPrefix(path.Clean("/"+h.Linkname), "/") != h.Linkname {
			return true
		}
	}
}

// symlinks are the names that were symbolic links in some tar.
type symlinks map[string]bool

// opaque reports whether a tar has an opaque mark in what may be a symbolic link to a directory, and
// remembers the links of the tar.
func (l symlinks) opaque(data []byte) (found bool) {
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err != nil {
			return found // the end, or what follows it
		}
		name := path.Clean("/" + h.Name)
		if h.Typeflag == tar.TypeSymlink {
			l[name] = true
		}
		if dir, base := path.Split(name); base == ".wh..wh..opq" {
			for ; dir != "/" && dir != ""; dir = path.Dir(dir) {
				dir = path.Clean(dir)
				found = found || l[dir]
			}
		}
	}
}

// TestFourWays sends random tars, one on top of another, through a directory and memory, which have to
// agree on everything, and through the unpackers of Docker and containerd. What those refuse is not
// compared, nor what comes after it.
func TestFourWays(t *testing.T) {
	tartest.NeedRoot(t)
	work := t.TempDir()
	n := 0
	var accepted, docker, contained int
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir := func(kind string) string {
			path := filepath.Join(work, fmt.Sprint(n, kind))
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
			return path
		}
		r := &round{dir: dir("ours"), log: filepath.Join(work, fmt.Sprint(n, "log")), memory: backendtest.NewMemoryTree()}
		inDocker, inContainerd := dir("docker"), dir("containerd")
		defer func() {
			err := errors.Join(os.RemoveAll(r.dir), os.RemoveAll(inDocker), os.RemoveAll(inContainerd), os.RemoveAll(r.log))
			if err != nil {
				t.Error(err)
			}
		}()
		alike := [2]bool{true, true}
		detours, links := false, symlinks{}
		for _, marks := range []bool{false, true} {
			r.data = tartest.Draw(t, "tar", marks)
			if !r.ours(t) {
				return
			}
			accepted++
			detours = detours || hasDetours(r.data)
			if alike[0] = alike[0] && inDockersWay(inDocker, r.data) == nil; alike[0] {
				docker++
				same(t, "docker", snapshot(t, r.dir), snapshot(t, inDocker), likeDocker(detours))
			}
			alike[1] = alike[1] && !links.opaque(r.data)
			if alike[1] = alike[1] && inContainerdsWay(inContainerd, r.data) == nil; alike[1] {
				contained++
				same(t, "containerd", snapshot(t, r.dir), snapshot(t, inContainerd), likeContainerd)
			}
		}
	})
	assert.Assert(t, accepted > n/4 && docker > n/4 && contained > n/4, "of %d: %d, %d, %d", n, accepted, docker, contained)
}

func inDockersWay(dir string, data []byte) error {
	return tartest.InChroot(dir, func() error {
		_, err := archive.UnpackLayer("/", bytes.NewReader(data), nil)
		return err
	})
}

func inContainerdsWay(dir string, data []byte) error {
	_, err := containerd.Apply(context.Background(), dir, bytes.NewReader(data))
	return err
}

// likeContainerd are the differences from containerd that random tars show.
func likeContainerd(_, ours, theirs string) bool { return ours == "" && theirs == emptyDir }
