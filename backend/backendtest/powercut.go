package backendtest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"strata/backend/internal/loopfs"
	"strata/backend/store"
)

// Sizes and numbers of a power cut run.
const (
	hostSize  = 6 << 30
	innerSize = 1 << 30
	cuts      = 5 // copies of the disk taken in one run
	loaders   = 3 // chains of layers written at the same time, the last of them as a snapshotter does
)

// PowerCut fills layers one after the other with SyncLayer, copies the disk below at random
// moments, and opens each copy as after a power cut: every layer whose Apply had returned before
// the copy was taken is whole and gives back the bytes it was filled with, every empty one whose
// Create had returned shows what its parent shows, and Check finds nothing.
//
// The disk is a loop device on a file on xfs, and the copy a reflink of that file. xfs makes a
// reflink under the lock that writes to the file take, after flushing what they left in the page
// cache (fs/xfs/xfs_reflink.c, xfs_reflink_remap_prep), so the copy is what the loop device had
// been told to write at one moment: all requests that had completed, and none that came later.
// What the file system above still held in memory is lost, as when the power goes. What this does
// not show is a disk that loses or reorders completed writes in a volatile cache: a missing FLUSH
// is not found, a missing fsync is.
//
// It skips the test if it does not run as root.
func PowerCut(t *testing.T, f Factory) {
	t.Helper()
	host := loopfs.New(t, "xfs", hostSize, "")
	disk := filepath.Join(host, "disk")
	loopfs.Make(t, disk, f.FS, innerSize, f.MountOptions)
	var copies []cutDisk
	t.Run("load", func(t *testing.T) { // its end unmounts the disk: two copies cannot be mounted at once
		l := powerLoad{f: f, root: filepath.Join(loopfs.Mount(t, disk, f.FS, innerSize, f.MountOptions), "store")}
		copies = l.run(t, disk)
	})
	for i, c := range copies {
		t.Run(fmt.Sprintf("cut%d", i), func(t *testing.T) { c.verify(t, f) })
	}
	total := 0
	for _, c := range copies {
		total += len(c.acknowledged)
	}
	assert.Assert(t, total > 0, "no layer was acknowledged before any of the cuts: nothing was tested")
}

// acknowledged is a layer whose Apply returned, or Create if the digest is "".
type acknowledged struct{ name, parent, digest string }

// cutDisk is a copy of the disk and what had been acknowledged before it was taken.
type cutDisk struct {
	image        string
	acknowledged []acknowledged
}

// powerLoad fills layers until it is told to stop.
type powerLoad struct {
	f       Factory
	root    string
	journal io.Writer // where acknowledged layers are noted, too; nil for nowhere

	mu   sync.Mutex
	done []acknowledged
}

func (l *powerLoad) run(t *testing.T, disk string) (copies []cutDisk) {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Root: l.root, Backend: l.f.Backend, New: l.f.New, ExactDiffs: true, Sync: store.SyncLayer})
	assert.NilError(t, err)
	var wg sync.WaitGroup
	stop, failed := make(chan struct{}), make(chan error, loaders)
	for chain := range loaders {
		wg.Go(func() { failed <- l.fill(t, s, chain, stop) })
	}
	rnd := newRand(uint64(time.Now().UnixNano()))
	for i := range cuts {
		time.Sleep(time.Duration(50+rnd.IntN(350)) * time.Millisecond)
		l.mu.Lock()
		before := append([]acknowledged(nil), l.done...)
		l.mu.Unlock()
		image := fmt.Sprintf("%s-%d", disk, i)
		loopfs.Command(t, "cp", "--reflink=always", disk, image)
		copies = append(copies, cutDisk{image, before})
	}
	close(stop)
	wg.Wait()
	for range loaders {
		assert.NilError(t, <-failed)
	}
	t.Logf("%d layers filled", len(l.done))
	assert.NilError(t, s.Close(t.Context()))
	return copies
}

// fill makes one layer after the other, each on top of the one before, starting again now and
// then; removals run among them.
func (l *powerLoad) fill(t *testing.T, s *store.Store, chain int, stop <-chan struct{}) error {
	parent := ""
	for i := 0; ; i++ {
		select {
		case <-stop:
			return nil
		default:
		}
		name := fmt.Sprintf("chain%d-%d", chain, i)
		text := powerArchive(uint64(chain*1000 + i))
		fill := applied
		if chain == loaders-1 {
			fill = committed
		}
		sum, err := fill(t, s, name, parent, text)
		if err != nil {
			return err
		}
		if err := l.acknowledge(name, parent, sum); err != nil {
			return err
		}
		empty := name + "-empty"
		if err := s.Create(t.Context(), empty, name, store.CreateOptions{}); err != nil {
			return err
		}
		if i%2 == 0 {
			err = l.acknowledge(empty, name, "")
		} else {
			err = s.Remove(t.Context(), empty)
		}
		if err != nil {
			return err
		}
		if parent = name; i%6 == 5 {
			parent = ""
		}
	}
}

// applied makes a layer and fills it, as Docker does, and returns the digest of its diff.
func applied(t *testing.T, s *store.Store, name, parent string, text []byte) (string, error) {
	t.Helper()
	if err := s.Create(t.Context(), name, parent, store.CreateOptions{}); err != nil {
		return "", err
	}
	_, err := s.Apply(t.Context(), name, bytes.NewReader(text))
	return digest(text), err
}

// committed does the same as a snapshotter: the layer has another name until it is whole.
func committed(t *testing.T, s *store.Store, name, parent string, text []byte) (string, error) {
	t.Helper()
	draft := "extract-" + name
	if err := s.Create(t.Context(), draft, parent, store.CreateOptions{Draft: true}); err != nil {
		return "", err
	}
	if _, err := s.Unpack(t.Context(), draft, bytes.NewReader(text)); err != nil {
		return "", err
	}
	if err := s.Commit(t.Context(), draft, name, store.CommitOptions{}); err != nil {
		return "", err
	}
	sum := sha256.New()
	err := s.Diff(t.Context(), name, parent, sum)
	return fmt.Sprintf("%x", sum.Sum(nil)), err
}

func (l *powerLoad) acknowledge(name, parent, digest string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = append(l.done, acknowledged{name, parent, digest})
	if l.journal == nil {
		return nil
	}
	_, err := fmt.Fprintf(l.journal, "%q %q %q\n", name, parent, digest)
	return err
}

// powerArchive is a layer of some hundred KiB in small and larger files: some few, which are synced
// one by one, or more.
func powerArchive(seed uint64) []byte {
	members := []member{directory("d"), directory("d/e"), file("d/e/deep", "deep")}
	for i := range 3 + 40*int(seed%2) {
		members = append(members, file(fmt.Sprintf("d/f%d-%02d", seed%7, i), string(Noise(seed*100+uint64(i), i*i*20))))
	}
	return archive(append(members, file("same", string(Noise(seed, 200<<10))), sym("same", "soft"), link("same", "hard"))...)
}

// verify mounts the copy, which replays the file system's journal, and looks at the store on it.
func (c cutDisk) verify(t *testing.T, f Factory) {
	root := filepath.Join(loopfs.Mount(t, c.image, f.FS, innerSize, f.MountOptions), "store")
	if len(c.acknowledged) == 0 {
		if _, err := os.Stat(root); err != nil {
			return // cut before there was a store
		}
	}
	verifyCut(t, f, root, c.acknowledged)
}

// verifyCut opens a store after a power cut and empties it.
func verifyCut(t *testing.T, f Factory, root string, done []acknowledged) {
	t.Helper()
	r := &rig{t: t, f: f, dir: filepath.Dir(root)}
	r.cfg = store.Config{Root: root, Backend: f.Backend, ExactDiffs: true, New: r.construct}
	r.open()
	t.Cleanup(r.abandon)
	assert.NilError(t, awaitDeletions(t.Context(), r.store))
	r.checkClean()
	for _, a := range done {
		if a.digest == "" {
			r.same(r.tree(a.parent), r.tree(a.name), a.name)
		} else {
			assert.Equal(t, digest(r.diff(a.name, a.parent)), a.digest, "layer %s", a.name)
		}
		assert.Equal(t, r.stat(a.name).Parent, a.parent)
	}
	t.Logf("%d layers acknowledged, %d found", len(done), len(r.names()))
	assert.NilError(t, removeAll(t.Context(), r.store))
	r.close()
}

// LoadUntilCut does to a real machine what [PowerCut] does to a copy of a disk: it fills layers of a store at root
// with SyncLayer, notes each that was acknowledged in a file that the cut does not reach, and after a while
// calls cut, which does not return. [VerifyCut] is for the next boot.
func LoadUntilCut(t *testing.T, f Factory, root, journal string, after time.Duration, cut func() error) {
	t.Helper()
	file, err := os.OpenFile(journal, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	assert.NilError(t, err)
	defer file.Close()
	s, err := store.Open(t.Context(), store.Config{Root: root, Backend: f.Backend, New: f.New, ExactDiffs: true, Sync: store.SyncLayer})
	assert.NilError(t, err)
	l := powerLoad{f: f, root: root, journal: file}
	failed := make(chan error, loaders+1)
	for chain := range loaders {
		go func() { failed <- l.fill(t, s, chain, nil) }()
	}
	time.AfterFunc(after, func() { failed <- cut() })
	t.Fatalf("the power did not go: %v", <-failed)
}

// VerifyCut opens the store that [LoadUntilCut] worked on and holds it to the journal.
func VerifyCut(t *testing.T, f Factory, root, journal string) {
	t.Helper()
	text, err := os.ReadFile(journal)
	assert.NilError(t, err)
	var done []acknowledged
	for line := range strings.Lines(string(text)) {
		var a acknowledged
		n, err := fmt.Sscanf(line, "%q %q %q\n", &a.name, &a.parent, &a.digest)
		assert.NilError(t, err, "line %q: %d words", line, n)
		done = append(done, a)
	}
	assert.Assert(t, len(done) > 0, "no layer was acknowledged before the cut: nothing was tested")
	verifyCut(t, f, root, done)
}
