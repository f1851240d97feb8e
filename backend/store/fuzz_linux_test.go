package store_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/store"
)

// inPlace is listing with its layers in place, so that nothing is mounted.
type inPlace struct{ *listing }

func newInPlace(ctx context.Context, env backend.Env) (backend.Backend, error) {
	b, err := newListing(ctx, env)
	if err != nil {
		return nil, err
	}
	return inPlace{b.(*listing)}, nil
}

func (p inPlace) Place(_ context.Context, l backend.Layer) (backend.Place, error) {
	dir := filepath.Join(p.home, l.ID)
	_, err := os.Lstat(dir)
	return backend.Place{Dir: dir, Whiteouts: backend.WhiteoutsNone}, err
}

// specimen is a store at rest with the layers base, mid and top, of which a fuzz target changes one file.
type specimen struct {
	files map[string][]byte // all files, by their path in the store; directories hold nil
	ids   map[string]string
}

func newSpecimen(f *testing.F) *specimen {
	f.Helper()
	if os.Geteuid() != 0 {
		f.Skip("needs root: gives files to their owners")
	}
	level := log.L.Logger.GetLevel()
	log.L.Logger.SetLevel(logrus.PanicLevel)
	f.Cleanup(func() { log.L.Logger.SetLevel(level) })
	root := filepath.Join(f.TempDir(), "store")
	s, err := store.Open(f.Context(), specimenConfig(root))
	assert.NilError(f, err)
	sp := &specimen{files: map[string][]byte{}, ids: map[string]string{}}
	parent := ""
	for _, name := range []string{"base", "mid", "top"} {
		assert.NilError(f, s.Create(f.Context(), name, parent, store.CreateOptions{}))
		_, err := s.Apply(f.Context(), name, bytes.NewReader(manyMembers(f, name)))
		assert.NilError(f, err)
		i, err := s.Stat(f.Context(), name)
		assert.NilError(f, err)
		sp.ids[name], parent = i.ID, name
	}
	assert.NilError(f, s.Close(f.Context()))
	assert.NilError(f, filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		sp.files[rel] = nil
		if e.Type().IsRegular() {
			text, err := os.ReadFile(path)
			sp.files[rel] = append([]byte{}, text...)
			return err
		}
		return nil
	}))
	return sp
}

func specimenConfig(root string) store.Config {
	return store.Config{Root: root, Backend: "inPlace", New: newInPlace, ExactDiffs: true, Sync: store.SyncNone}
}

// manyMembers is a layer tar of which some members replace others, so that its log has records of every kind.
func manyMembers(t testing.TB, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range []string{"a", "d/b", "a", name} {
		assert.NilError(t, w.WriteHeader(&tar.Header{Name: m, Mode: 0o644, Size: int64(len(name)), Typeflag: tar.TypeReg}))
		_, err := io.WriteString(w, name)
		assert.NilError(t, err)
	}
	assert.NilError(t, w.Close())
	return b.Bytes()
}

// maxAllocated is how many bytes all that exercise does may allocate, however long that takes: far less than what a length in a file can claim.
const maxAllocated = 512 << 20

// exercise puts text in the place of a file of the store and does with it what can be done to a store at rest. What fails may
// fail; base keeps its data.
func (sp *specimen) exercise(t *testing.T, path string, text []byte) {
	root := filepath.Join(t.TempDir(), "store")
	for _, name := range slices.Sorted(maps.Keys(sp.files)) {
		if file := sp.files[name]; file == nil {
			assert.NilError(t, os.MkdirAll(filepath.Join(root, name), 0o700))
		} else {
			assert.NilError(t, os.WriteFile(filepath.Join(root, name), file, 0o600))
		}
	}
	assert.NilError(t, os.WriteFile(filepath.Join(root, path), text, 0o600))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 2 { // what is left is used again
		s, err := store.Open(t.Context(), specimenConfig(root))
		if err != nil {
			return
		}
		_, err = s.List(t.Context())
		assert.NilError(t, err)
		for _, o := range []store.CheckOptions{{}, {Deep: true, Repair: true}} {
			_, err = s.Check(t.Context(), o)
			assert.NilError(t, err)
		}
		for _, pair := range [][2]string{{"base", ""}, {"mid", "base"}, {"top", "mid"}, {"top", ""}} {
			_ = s.Diff(t.Context(), pair[0], pair[1], io.Discard) // it may be damaged
		}
		_, err = s.GC(t.Context(), store.GCOptions{Yes: true, Known: map[string]bool{"top": true}})
		assert.NilError(t, err)
		assert.NilError(t, s.Close(t.Context()))
	}
	runtime.ReadMemStats(&after)
	assert.Assert(t, after.TotalAlloc-before.TotalAlloc < maxAllocated, "%d bytes", after.TotalAlloc-before.TotalAlloc)
	_, err := os.Stat(filepath.Join(root, "data", "inPlace", sp.ids["base"], "base"))
	assert.NilError(t, err)
}

// FuzzRecordOnDisk puts any text in the place of a parent's record, with a right checksum or without, under any of a record's names.
func FuzzRecordOnDisk(f *testing.F) {
	sp := newSpecimen(f)
	record := func(name string) string { return filepath.Join("layers", sp.ids[name]) }
	text := sp.files[record("base")]
	line, _, _ := bytes.Cut(text, []byte{'\n'})
	for _, fields := range []map[string]any{
		{},
		{"state": "creating"},
		{"state": "removing"},
		{"state": "x"},
		{"parent": sp.ids["top"]},
		{"parent": sp.ids["base"]},
		{"link": true},
		{"replaces": sp.ids["mid"]},
		{"replaces": sp.ids["top"]},
		{"name": "mid"},
		{"name": "\x1b"},
		{"draft": true},
		{"lent": true},
		{"detached": true},
		{"applied": nil},
		{"applied": map[string]any{"size": -1, "bytes": -1, "exact": true}},
		{"idmap": map[string]any{"uids": []any{}}},
		{"limit": -1},
		{"id": "x"},
		{"sealed": false},
	} {
		changed, _, _ := bytes.Cut(sealed(f, text, fields), []byte{'\n'})
		for suffix := range uint8(4) {
			f.Add(changed, true, suffix)
		}
	}
	f.Add(text, false, uint8(0))
	f.Add(text[:len(text)/2], false, uint8(0))
	f.Add(append(line, 0), true, uint8(1))
	f.Add([]byte{}, false, uint8(0))
	f.Fuzz(func(t *testing.T, text []byte, sum bool, suffix uint8) {
		if sum {
			text = summed(text)
		}
		// A record that says so may lose a layer its data: only that of the child is put under a name that says it.
		victim := "base"
		if suffix %= 4; suffix > 0 {
			victim = "top"
		}
		sp.exercise(t, record(victim)+[]string{"", ".new", ".part", ".gone"}[suffix], text)
	})
}

// FuzzMetaOnDisk puts any text in the place of strata.json.
func FuzzMetaOnDisk(f *testing.F) {
	sp := newSpecimen(f)
	text := sp.files["strata.json"]
	line, _, _ := bytes.Cut(text, []byte{'\n'})
	f.Add(text, false)
	f.Add(line, true)
	for _, fields := range []map[string]any{{"format": 2}, {"backend": "other"}, {"backend": "../.."}, {"exactDiffs": false}, {"uuid": ""}} {
		changed, _, _ := bytes.Cut(sealed(f, text, fields), []byte{'\n'})
		f.Add(changed, true)
	}
	f.Fuzz(func(t *testing.T, text []byte, sum bool) {
		if sum {
			text = summed(text)
		}
		sp.exercise(t, "strata.json", text)
	})
}

// FuzzLogOnDisk puts any bytes in the place of a tar log.
func FuzzLogOnDisk(f *testing.F) {
	sp := newSpecimen(f)
	path := filepath.Join("logs", sp.ids["base"])
	text := sp.files[path]
	f.Add(text)
	for i := 0; i < len(text); i += 37 {
		flipped := bytes.Clone(text)
		flipped[i] ^= 0x40
		f.Add(flipped)
	}
	f.Add(text[:len(text)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, text []byte) { sp.exercise(t, path, text) })
}

var _ backend.Placer = inPlace{&listing{Dir: &backendtest.Dir{}}}
