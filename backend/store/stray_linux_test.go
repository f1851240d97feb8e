package store_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend/store"
)

// What lies in the store and belongs to no layer is named, and put away by Repair.
func TestStrays(t *testing.T) {
	d := newDamaged(t, "base")
	s := open(t, d.cfg)
	path := func(name string) string { return filepath.Join(d.cfg.Root, name) }
	files := []string{"layers/README", "layers/abcdefgh", "layers/" + d.ids["base"] + "~", "layers/abcdefgh.new.tmp", "logs/notes.txt", "logs/abcdefgh"}
	for _, name := range files {
		assert.NilError(t, os.WriteFile(path(name), []byte("text"), 0o600))
	}
	assert.NilError(t, os.MkdirAll(path("mnt/empty"), 0o700))
	assert.NilError(t, os.MkdirAll(path("mnt/full/x"), 0o700))
	assert.NilError(t, unix.Mkfifo(path("logs/fifo"), 0o600))
	for _, repair := range []bool{false, true} {
		found, lines := check(t, s, store.CheckOptions{Repair: repair})
		assert.Equal(t, len(lines), len(files)+3, "%v", found)
		for _, f := range found {
			record := strings.Contains(f.Detail, "/layers/abcdefgh:") // by its name, and one that cannot be used
			assert.Equal(t, f.Kind == store.FindingBadRecord && f.Layer == "abcdefgh", record, "%v", f)
			assert.Equal(t, f.Kind == store.FindingStray, !record, "%v", f)
			assert.Equal(t, f.Repaired != "", repair && !strings.Contains(f.Detail, "/full"), "%v", f)
		}
	}
	_, lines := check(t, s, store.CheckOptions{Repair: true})
	assert.Equal(t, len(lines), 1, "%v", lines)
	for _, name := range files {
		text, err := os.ReadFile(path("damaged/" + strings.ReplaceAll(name, "/", "-")))
		assert.NilError(t, err)
		assert.Equal(t, string(text), "text")
	}
	works(t, s, "base", "")
	// Again: what was put away is not overwritten.
	assert.NilError(t, os.WriteFile(path(files[0]), []byte("other"), 0o600))
	check(t, s, store.CheckOptions{Repair: true})
	for name, want := range map[string]string{"damaged/layers-README": "text", "damaged/layers-README.2": "other"} {
		text, err := os.ReadFile(path(name))
		assert.NilError(t, err)
		assert.Equal(t, string(text), want)
	}
}

// What can be a layer's record by its name is reported as such whether it was there when the store was opened or has come since, and a whole
// one is left where somebody has put it.
func TestRecordPutThere(t *testing.T) {
	const movable = "nothing belongs to it: --repair moves it away"
	for _, whole := range []bool{false, true} {
		d := newDamaged(t, "base", "top")
		text, err := os.ReadFile(d.record("top"))
		assert.NilError(t, err)
		file := d.record("top")
		if !whole {
			file, text = filepath.Join(d.cfg.Root, "layers", "stray"), []byte("text")
		}
		id := filepath.Base(file)
		s := open(t, d.cfg)
		if whole { // of a layer without data
			assert.NilError(t, s.Remove(t.Context(), "top"))
			assert.NilError(t, s.Settle(t.Context()))
		}
		assert.NilError(t, os.WriteFile(file, text, 0o600))
		found, lines := check(t, s, store.CheckOptions{Repair: whole})
		assert.DeepEqual(t, lines, []string{"unreadable-record " + id})
		assert.Equal(t, found[0].Repaired, "")
		assert.Equal(t, strings.Contains(found[0].Detail, "the next start takes its layer back"), whole, found[0].Detail)
		assert.Equal(t, strings.Contains(found[0].Detail, movable), !whole, found[0].Detail)
		assert.NilError(t, s.Close(t.Context()))
		s = open(t, d.cfg)
		found, lines = check(t, s, store.CheckOptions{})
		if whole {
			works(t, s, "base", "")
			assert.DeepEqual(t, lines, []string{"metadata-without-data top"})
			continue
		}
		assert.DeepEqual(t, lines, []string{"unreadable-record " + id})
		assert.Assert(t, strings.Contains(found[0].Detail, movable), found[0].Detail)
	}
}

// Of records that have changed places each is named by whose it is, and check takes them back when they are where they belong.
func TestSwappedRecords(t *testing.T) {
	d := newDamaged(t, "base", "top")
	swap := func() {
		base, top, third := d.record("base"), d.record("top"), d.record("base")+"~"
		assert.NilError(t, os.Rename(base, third))
		assert.NilError(t, os.Rename(top, base))
		assert.NilError(t, os.Rename(third, top))
	}
	swap()
	s := open(t, d.cfg)
	for _, repair := range []bool{false, true} {
		found, lines := check(t, s, store.CheckOptions{Repair: repair})
		assert.Equal(t, len(lines), 2, "%v", found)
		for _, f := range found {
			other := "top"
			if f.Layer == d.ids["top"] {
				other = "base"
			}
			assert.Equal(t, f.Kind, store.FindingBadRecord)
			assert.Equal(t, f.Repaired, "")
			assert.Assert(t, strings.Contains(f.Detail, "it is the record of layer "+d.ids[other]+", whole"), f.Detail)
			assert.Assert(t, strings.Contains(f.Detail, "give it the name "+d.record(other)), f.Detail)
		}
	}
	swap()
	check(t, s, store.CheckOptions{Repair: true})
	_, lines := check(t, s, store.CheckOptions{Deep: true})
	assert.Equal(t, len(lines), 0, "%v", lines)
	works(t, s, "base", "")
	works(t, s, "top", "base")
}

// A record to which nothing belongs is put away, and its ID is never another layer's while it is there.
func TestRecordOfNothing(t *testing.T) {
	d := newDamaged(t, "base")
	assert.NilError(t, unix.Mkfifo(filepath.Join(d.cfg.Root, "layers", "abcdefgh"), 0o600))
	s := open(t, d.cfg)
	found, lines := check(t, s, store.CheckOptions{Repair: true})
	assert.DeepEqual(t, lines, []string{"unreadable-record abcdefgh"})
	assert.Assert(t, found[0].Repaired != "")
	_, lines = check(t, s, store.CheckOptions{})
	assert.Equal(t, len(lines), 0, "%v", lines)
}
