package store_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/store"
)

// damaged is a store at rest whose files a test changes.
type damaged struct {
	t   *testing.T
	cfg store.Config
	ids map[string]string // by name
}

// newDamaged makes a store with these layers, each a child of the one before, filled from a tar.
func newDamaged(t *testing.T, names ...string) *damaged {
	t.Helper()
	needRoot(t)
	d := &damaged{t: t, cfg: config(t), ids: map[string]string{}}
	s, err := store.Open(t.Context(), d.cfg)
	assert.NilError(t, err)
	parent := ""
	for _, name := range names {
		assert.NilError(t, s.Create(t.Context(), name, parent, store.CreateOptions{}))
		_, err := s.Apply(t.Context(), name, bytes.NewReader(oneFile(t, name, name)))
		assert.NilError(t, err)
		i, err := s.Stat(t.Context(), name)
		assert.NilError(t, err)
		d.ids[name], parent = i.ID, name
	}
	assert.NilError(t, s.Close(t.Context()))
	return d
}

func (d *damaged) record(name string) string { return filepath.Join(d.cfg.Root, "layers", d.ids[name]) }

func (d *damaged) data(name string) string {
	return filepath.Join(d.cfg.Root, "data", "listing", d.ids[name])
}

// edit changes the bytes of a layer's record.
func (d *damaged) edit(name string, change func([]byte) []byte) {
	d.t.Helper()
	text, err := os.ReadFile(d.record(name))
	assert.NilError(d.t, err)
	assert.NilError(d.t, os.WriteFile(d.record(name), change(bytes.Clone(text)), 0o600))
}

// rewrite changes what a layer's record says, with a checksum that is right.
func (d *damaged) rewrite(name string, fields map[string]any) {
	d.t.Helper()
	d.edit(name, func(text []byte) []byte { return sealed(d.t, text, fields) })
}

// sealed changes fields of a record's text and its checksum with them.
func sealed(t testing.TB, text []byte, fields map[string]any) []byte {
	t.Helper()
	line, _, _ := bytes.Cut(text, []byte{'\n'})
	all := map[string]any{}
	assert.NilError(t, json.Unmarshal(line, &all))
	for name, value := range fields {
		all[name] = value
		if value == nil {
			delete(all, name)
		}
	}
	line, err := json.Marshal(all)
	assert.NilError(t, err)
	return summed(line)
}

// summed adds the checksum to a record's first line.
func summed(line []byte) []byte {
	line = append(bytes.Clone(line), '\n')
	return fmt.Appendf(line, "%08x\n", crc32.Checksum(line, crc32.MakeTable(crc32.Castagnoli)))
}

// flip changes one bit of a text's middle.
func flip(text []byte) []byte {
	text[len(text)/2] ^= 4
	return text
}

// parentsID changes two bits, so that a record names another parent.
func parentsID(text []byte) []byte {
	at := bytes.Index(text, []byte(`"parent":"`)) + len(`"parent":"`)
	text[at], text[at+1] = text[at]^1, text[at+1]^2
	return text
}

func zero(text []byte) []byte { return make([]byte, len(text)) }

// check runs a check and returns what it found, kinds and IDs or names by line.
func check(t *testing.T, s *store.Store, o store.CheckOptions) (found []store.Finding, lines []string) {
	t.Helper()
	found, err := s.Check(t.Context(), o)
	assert.NilError(t, err)
	for _, f := range found {
		lines = append(lines, fmt.Sprintf("%s %s", f.Kind, f.Layer))
	}
	return found, lines
}

// collect collects all garbage and fails if that is a layer's data.
func (d *damaged) collect(s *store.Store, known ...string) []store.Orphan {
	d.t.Helper()
	o := store.GCOptions{Yes: true}
	if len(known) > 0 {
		o.Known = map[string]bool{}
	}
	for _, k := range known {
		o.Known[k] = true
	}
	orphans, err := s.GC(d.t.Context(), o)
	assert.NilError(d.t, err)
	assert.NilError(d.t, s.Settle(d.t.Context()))
	for name := range d.ids {
		_, err := os.Stat(filepath.Join(d.data(name), name))
		assert.NilError(d.t, err, "layer %s was deleted: %v", name, orphans)
	}
	return orphans
}

// works fails the test unless a layer can be read.
func works(t *testing.T, s *store.Store, name, parent string) {
	t.Helper()
	var b bytes.Buffer
	assert.NilError(t, s.Diff(t.Context(), name, parent, &b), name)
	assert.Assert(t, bytes.Equal(b.Bytes(), oneFile(t, name, name)), name)
}

// Rot in the record of any layer costs no layer its data, whoever collects garbage. What one bit does, check mends.
func TestRotInARecord(t *testing.T) {
	for _, tc := range []struct {
		name   string
		damage func([]byte) []byte
		mends  bool
	}{
		{"one bit", flip, true},
		{"a bit of the checksum", func(b []byte) []byte { b[len(b)-3] ^= 1; return b }, true},
		{"an edit", func(b []byte) []byte { return bytes.Replace(b, []byte(`"sealed":true`), []byte(`"sealed": true`), 1) }, true},
		{"zeros", zero, false},
		{"nothing left", func([]byte) []byte { return nil }, false},
		{"cut", func(b []byte) []byte { return b[:len(b)/2] }, false},
	} {
		for _, rotten := range []string{"base", "mid"} {
			t.Run(tc.name+" in "+rotten, func(t *testing.T) {
				d := newDamaged(t, "base", "mid", "top")
				d.edit(rotten, tc.damage)
				text, err := os.ReadFile(d.record(rotten))
				assert.NilError(t, err)
				s := open(t, d.cfg)
				d.collect(s)
				d.collect(s, "top")
				found, _ := check(t, s, store.CheckOptions{})
				assert.Equal(t, found[0].Kind, store.FindingBadRecord)
				assert.Equal(t, found[0].Layer, d.ids[rotten])
				child := map[string]string{"base": "mid", "mid": "top"}[rotten]
				assert.Assert(t, strings.Contains(found[0].Detail, `the parent of "`+child+`"`), found[0].Detail)
				assert.Assert(t, s.Damaged() > 0)

				_, err = s.Check(t.Context(), store.CheckOptions{Repair: true})
				assert.NilError(t, err)
				d.collect(s, "top")
				if tc.mends {
					d.wantMended(s, rotten, text)
					return
				}
				again, err := os.ReadFile(d.record(rotten))
				assert.NilError(t, err)
				assert.Assert(t, bytes.Equal(text, again), "the damaged record was touched")
				assert.NilError(t, s.Close(t.Context()))
				d.collect(open(t, d.cfg), "top")
			})
		}
	}
}

// wantMended: everything is as before, also after the next Open, and the damaged text is kept.
func (d *damaged) wantMended(s *store.Store, rotten string, text []byte) {
	d.t.Helper()
	for range 2 {
		_, lines := check(d.t, s, store.CheckOptions{Deep: true})
		assert.Equal(d.t, len(lines), 0, "%v", lines)
		works(d.t, s, "base", "")
		works(d.t, s, "mid", "base")
		works(d.t, s, "top", "mid")
		infos, err := s.List(d.t.Context())
		assert.NilError(d.t, err)
		for _, i := range infos {
			assert.Equal(d.t, i.Children, map[string]int{"base": 1, "mid": 1}[i.Name], i.Name)
		}
		kept, err := os.ReadFile(filepath.Join(d.cfg.Root, "damaged", "layers-"+d.ids[rotten]))
		assert.NilError(d.t, err)
		assert.Assert(d.t, bytes.Equal(kept, text))
		assert.NilError(d.t, s.Close(d.t.Context()))
		s = open(d.t, d.cfg)
	}
}

// A removed layer that waits for its last child stays as long as that may be one whose record is damaged.
func TestRotAboveARemovedLayer(t *testing.T) {
	for _, tc := range []struct {
		name   string
		damage func([]byte) []byte
		mends  bool
	}{{"one bit", flip, true}, {"zeros", zero, false}, {"two bits of its parent's ID", parentsID, false}} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDamaged(t, "base", "top")
			assert.NilError(t, os.Rename(d.record("base"), d.record("base")+".gone"))
			d.edit("top", tc.damage)
			for range 2 {
				s := open(t, d.cfg)
				assert.NilError(t, s.Settle(t.Context()))
				if tc.mends {
					d.collect(s)
					d.collect(s, "nothing")
				}
				_, err := os.Stat(filepath.Join(d.data("base"), "base"))
				assert.NilError(t, err)
				assert.NilError(t, s.Close(t.Context()))
			}
		})
	}
}

// A record whose text was damaged so that it names a parent which is not there is not believed: it is left alone like what it may stand on, and
// counts once it is restored.
func TestRotInAParentsID(t *testing.T) {
	d := newDamaged(t, "base", "top", "other")
	text, err := os.ReadFile(d.record("top"))
	assert.NilError(t, err)
	assert.NilError(t, os.Rename(d.record("base"), d.record("base")+".gone"))
	d.edit("top", parentsID)
	s := open(t, d.cfg)
	for range 2 {
		found, _ := check(t, s, store.CheckOptions{Repair: true})
		assert.Equal(t, found[0].Layer, d.ids["top"])
		assert.Equal(t, found[0].Repaired, "")
		assert.Assert(t, strings.Contains(found[0].Detail, "restore the record from a backup"), found[0].Detail)
		d.collect(s)
		d.collect(s, "other")
	}
	assert.NilError(t, os.WriteFile(d.record("top"), text, 0o600))
	_, lines := check(t, s, store.CheckOptions{Repair: true})
	assert.Equal(t, len(lines), 0, "%v", lines)
	works(t, s, "other", "top")
	assert.NilError(t, s.Remove(t.Context(), "other"))
	assert.NilError(t, s.Remove(t.Context(), "top"))
	assert.NilError(t, s.Settle(t.Context()))
	_, err = os.Stat(d.data("base"))
	assert.Assert(t, os.IsNotExist(err), "it waited for its last child: %v", err)
}

// The torn record of a removed layer that a child stands on is no reason to show the child without what lies below both.
func TestRotInARemovedLayer(t *testing.T) {
	d := newDamaged(t, "base", "mid", "top")
	d.edit("mid", flip)
	assert.NilError(t, os.Rename(d.record("mid"), d.record("mid")+".gone"))
	s := open(t, d.cfg)
	_, err := s.Mount(t.Context(), "top", store.MountOptions{})
	assert.Assert(t, errdefs.IsDataLoss(err), "%v", err)
	d.collect(s)
	_, lines := check(t, s, store.CheckOptions{Repair: true})
	assert.Assert(t, slices.Contains(lines, "unreadable-record "+d.ids["mid"]), "%v", lines)
	_, lines = check(t, s, store.CheckOptions{})
	assert.Equal(t, len(lines), 0, "%v", lines)
	dir, err := s.Mount(t.Context(), "top", store.MountOptions{})
	assert.NilError(t, err)
	for _, name := range []string{"base", "mid", "top"} {
		_, err := os.Stat(filepath.Join(dir, name))
		assert.NilError(t, err)
	}
	assert.NilError(t, s.Remove(t.Context(), "top"))
	assert.NilError(t, s.Settle(t.Context()))
	_, err = os.Stat(d.data("mid"))
	assert.Assert(t, os.IsNotExist(err), "it waited for its last child: %v", err)
}

// Data is kept that something mounted uses, or a record names, though it has no record itself; other data goes.
func TestGCSparesWhatIsNeeded(t *testing.T) {
	d := newDamaged(t, "base", "top")
	assert.NilError(t, os.Remove(d.record("base")))
	home := filepath.Dir(d.data("base"))
	assert.NilError(t, os.Mkdir(filepath.Join(home, "mounted-one"), 0o700))
	assert.NilError(t, os.Mkdir(filepath.Join(home, "needless"), 0o700))
	elsewhere := t.TempDir()
	assert.NilError(t, unix.Mount(filepath.Join(home, "mounted-one"), elsewhere, "", unix.MS_BIND, ""))
	t.Cleanup(func() { assert.NilError(t, unix.Unmount(elsewhere, 0)) })
	s := open(t, d.cfg)
	removed := map[string]bool{}
	for _, o := range d.collect(s) {
		removed[o.ID] = o.Removed
	}
	assert.DeepEqual(t, removed, map[string]bool{d.ids["base"]: false, "mounted-one": false, "needless": true})
}

// A damaged record that nothing needs and nobody can read is garbage like its data, but its text is kept.
func TestGCOfADamagedLeaf(t *testing.T) {
	for _, byHand := range []bool{false, true} {
		d := newDamaged(t, "base", "top")
		d.edit("top", zero)
		s := open(t, d.cfg)
		if byHand {
			assert.NilError(t, os.Remove(d.record("top")))
		}
		orphans, err := s.GC(t.Context(), store.GCOptions{Yes: true})
		assert.NilError(t, err)
		assert.Equal(t, len(orphans), 1)
		assert.Assert(t, orphans[0].Removed && orphans[0].ID == d.ids["top"], "%v", orphans)
		_, err = os.Stat(d.data("top"))
		assert.Assert(t, os.IsNotExist(err))
		_, err = os.Stat(filepath.Join(d.cfg.Root, "damaged", "layers-"+d.ids["top"]))
		assert.Equal(t, err == nil, !byHand, "%v", err)
		_, lines := check(t, s, store.CheckOptions{})
		assert.Equal(t, len(lines), 0, "%v", lines)
		assert.NilError(t, s.Remove(t.Context(), "base"))
	}
}

// weighing is listing that measures, after it has called before.
type weighing struct {
	*listing
	before   func()
	removing func()
}

func (w *weighing) Usage(context.Context, backend.Layer) (backend.Usage, error) {
	w.before()
	return backend.Usage{}, nil
}

func (w *weighing) Remove(ctx context.Context, l backend.Layer) error {
	w.removing()
	return w.listing.Remove(ctx, l)
}

// Two collections of the same data beside one another: the one that comes later passes over it.
func TestTwoGCsAtOnce(t *testing.T) {
	d := newDamaged(t, "base", "top")
	assert.NilError(t, os.Remove(d.record("top")))
	w := &weighing{before: func() {}, removing: func() {}}
	d.cfg.New = func(ctx context.Context, env backend.Env) (backend.Backend, error) {
		b, err := newListing(ctx, env)
		if err == nil {
			w.listing = b.(*listing)
		}
		return w, err
	}
	s := open(t, d.cfg)
	yes := store.GCOptions{Yes: true}
	underWay, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	w.before = func() {
		w.before = func() {}
		w.removing = func() {
			close(underWay)
			<-goOn
		}
		go func() {
			orphans, err := s.GC(t.Context(), yes)
			if err == nil && (len(orphans) != 1 || !orphans[0].Removed) {
				err = fmt.Errorf("the first removes %v", orphans)
			}
			done <- err
		}()
		<-underWay
	}
	orphans, err := s.GC(t.Context(), yes)
	close(goOn)
	assert.NilError(t, err)
	assert.Equal(t, len(orphans), 0, "%v", orphans)
	assert.NilError(t, <-done)
	_, err = os.Stat(d.data("top"))
	assert.Assert(t, os.IsNotExist(err))
}

// A record that is restored from a backup counts from the next repair on.
func TestRestoredRecord(t *testing.T) {
	d := newDamaged(t, "base", "top")
	text, err := os.ReadFile(d.record("base"))
	assert.NilError(t, err)
	d.edit("base", zero)
	s := open(t, d.cfg)
	assert.NilError(t, os.WriteFile(d.record("base"), text, 0o600))
	found, _ := check(t, s, store.CheckOptions{})
	assert.Assert(t, strings.HasPrefix(found[0].Detail, "the record is whole again: --repair"), found[0].Detail)
	_, lines := check(t, s, store.CheckOptions{Repair: true})
	assert.Equal(t, len(lines), 0, "%v", lines)
	works(t, s, "base", "")
	works(t, s, "top", "base")
}

// What happens to a record while the store is open costs nothing: check names it, and repair writes it anew.
func TestRotWhileOpen(t *testing.T) {
	damages := map[string]func(path string){"gone": func(string) {}}
	for kind, put := range odd(t) {
		damages[kind] = put
	}
	for kind, change := range map[string]func([]byte) []byte{"one bit": flip, "zeros": zero} {
		damages[kind] = func(path string) {
			text := []byte("some text\n")
			assert.NilError(t, os.WriteFile(path, change(text), 0o600))
		}
	}
	for kind, put := range damages {
		t.Run(kind, func(t *testing.T) {
			d := newDamaged(t, "base", "mid", "top")
			s := open(t, d.cfg)
			text, err := os.ReadFile(d.record("mid"))
			assert.NilError(t, err)
			assert.NilError(t, os.Remove(d.record("mid")))
			put(d.record("mid"))
			for _, repair := range []bool{false, true} {
				found, lines := check(t, s, store.CheckOptions{Repair: repair})
				assert.DeepEqual(t, lines, []string{"unreadable-record mid"})
				assert.Equal(t, found[0].Repaired != "", repair)
			}
			again, err := os.ReadFile(d.record("mid"))
			assert.NilError(t, err)
			assert.Equal(t, string(again), string(text))
			_, err = os.Lstat(filepath.Join(d.cfg.Root, "damaged", "layers-"+d.ids["mid"]))
			assert.Equal(t, err == nil, kind != "gone", "%v", err)
			for range 2 {
				_, lines := check(t, s, store.CheckOptions{Deep: true})
				assert.Equal(t, len(lines), 0, "%v", lines)
				works(t, s, "top", "mid")
				assert.NilError(t, s.Close(t.Context()))
				s = open(t, d.cfg)
			}
		})
	}
}

// What the client was not asked about is no garbage.
func TestGCPassesOverWhatIsNew(t *testing.T) {
	d := newDamaged(t, "base", "top")
	s := open(t, d.cfg)
	assert.NilError(t, s.Create(t.Context(), "later", "", store.CreateOptions{}))
	orphans, err := s.GC(t.Context(), store.GCOptions{
		Yes: true, Known: map[string]bool{"base": true}, Listed: map[string]bool{d.ids["base"]: true, d.ids["top"]: true},
	})
	assert.NilError(t, err)
	assert.Equal(t, len(orphans), 1)
	assert.Equal(t, orphans[0].Name, "top")
	_, err = s.Stat(t.Context(), "later")
	assert.NilError(t, err)
}

// Parents that form a circle are no endless loop, and cost no other layer anything.
func TestCircleOfParents(t *testing.T) {
	for name, parents := range map[string]map[string]string{
		"itself": {"base": "base"}, "two": {"base": "mid"}, "three": {"base": "top"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDamaged(t, "base", "mid", "top", "above")
			for child, parent := range parents {
				d.rewrite(child, map[string]any{"parent": d.ids[parent]})
			}
			peers := config(t)
			peers.Stores = []string{d.cfg.Root}
			s := open(t, d.cfg)
			assert.NilError(t, s.Create(t.Context(), "alone", "", store.CreateOptions{}))
			d.collect(s)
			d.collect(s, "above", "alone")
			for _, o := range []store.CheckOptions{{}, {Repair: true, Deep: true}} {
				_, lines := check(t, s, o)
				assert.DeepEqual(t, slices.Sorted(slices.Values(lines)), []string{
					"parent-missing above", "parent-missing base", "parent-missing mid", "parent-missing top",
				})
			}
			_, err := s.Mount(t.Context(), "above", store.MountOptions{})
			assert.Assert(t, errdefs.IsDataLoss(err), "%v", err)
			p := open(t, peers)
			_, err = p.Mount(t.Context(), "above", store.MountOptions{})
			assert.Assert(t, errdefs.IsDataLoss(err), "%v", err)
		})
	}
}

// odd puts something that is no file where a file is to be.
func odd(t *testing.T) map[string]func(path string) {
	t.Helper()
	must := func(err error) { t.Helper(); assert.NilError(t, err) }
	return map[string]func(string){
		"fifo":      func(path string) { must(unix.Mkfifo(path, 0o600)) },
		"device":    func(path string) { must(unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5)))) }, // /dev/zero
		"directory": func(path string) { must(os.MkdirAll(filepath.Join(path, "x"), 0o700)) },
		"symlink":   func(path string) { must(os.Symlink("/dev/zero", path)) },
		"socket": func(path string) {
			short := filepath.Join(t.TempDir(), "s") // a socket's path is short
			l, err := net.Listen("unix", short)
			must(err)
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			must(l.Close())
			must(os.Rename(short, path))
		},
		"huge": func(path string) {
			must(os.WriteFile(path, nil, 0o600))
			must(os.Truncate(path, 1<<40))
		},
	}
}

// Whatever lies in the place of a record or a log, the store opens, names it, leaves it alone, and its other layers work.
func TestOddFiles(t *testing.T) {
	for kind, put := range odd(t) {
		for _, suffix := range []string{"", ".new", ".part", ".gone"} {
			t.Run(kind+" for a record"+suffix, func(t *testing.T) {
				d := newDamaged(t, "base", "top")
				assert.NilError(t, os.Remove(d.record("base")))
				put(d.record("base") + suffix)
				s := open(t, d.cfg)
				assert.NilError(t, s.Create(t.Context(), "alone", "", store.CreateOptions{}))
				d.collect(s)
				d.collect(s, "nothing at all", "alone")
				_, lines := check(t, s, store.CheckOptions{Repair: true, Deep: true})
				assert.DeepEqual(t, lines, []string{"unreadable-record " + d.ids["base"], "parent-missing top"})
				_, err := os.Lstat(d.record("base") + suffix)
				assert.NilError(t, err)
				assert.NilError(t, s.Remove(t.Context(), "alone"))
			})
		}
		t.Run(kind+" for a log", func(t *testing.T) {
			d := newDamaged(t, "base", "top")
			log := filepath.Join(d.cfg.Root, "logs", d.ids["base"])
			assert.NilError(t, os.Remove(log))
			put(log)
			s := open(t, d.cfg)
			var b bytes.Buffer
			assert.Assert(t, s.Diff(t.Context(), "base", "", &b) != nil)
			assert.Equal(t, b.Len(), 0)
			works(t, s, "top", "base")
			_, lines := check(t, s, store.CheckOptions{Deep: true})
			assert.Assert(t, slices.Contains(lines, "content-changed base"), "%v", lines)
			d.collect(s)
		})
		t.Run(kind+" for strata.json", func(t *testing.T) {
			d := newDamaged(t, "base")
			meta := filepath.Join(d.cfg.Root, "strata.json")
			assert.NilError(t, os.Remove(meta))
			put(meta)
			_, err := store.Open(t.Context(), d.cfg)
			assert.Assert(t, errdefs.IsFailedPrecondition(err), "%v", err)
		})
	}
}

// A record that is whole and cannot be meant is named and left alone.
func TestStrangeRecords(t *testing.T) {
	for name, fields := range map[string]map[string]any{
		"unknown state": {"state": "frozen"}, "another's ID": {"id": "abcdefghijklmnop"}, "an ID that leads elsewhere": {"id": "../../x"},
		"a link to nothing": {"link": true, "parent": nil}, "no state": {"state": nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDamaged(t, "base", "mid", "top")
			d.rewrite("mid", fields)
			text, err := os.ReadFile(d.record("mid"))
			assert.NilError(t, err)
			s := open(t, d.cfg)
			d.collect(s)
			d.collect(s, "top")
			_, lines := check(t, s, store.CheckOptions{Repair: true, Deep: true})
			assert.DeepEqual(t, lines, []string{"unreadable-record " + d.ids["mid"], "parent-missing top"})
			again, err := os.ReadFile(d.record("mid"))
			assert.NilError(t, err)
			assert.Assert(t, bytes.Equal(text, again))
			works(t, s, "base", "")
			assert.NilError(t, s.Close(t.Context()))
			d.collect(open(t, d.cfg), "top")
		})
	}
}

// A record that claims the place of a sealed layer does not remove it: only one that nobody has built on can have been replaced.
func TestClaimToReplace(t *testing.T) {
	d := newDamaged(t, "base", "mid", "top")
	d.rewrite("base", map[string]any{"replaces": d.ids["top"]})
	s := open(t, d.cfg)
	assert.NilError(t, s.Settle(t.Context()))
	for name, parent := range map[string]string{"base": "", "mid": "base", "top": "mid"} {
		works(t, s, name, parent)
	}
}

// Of two records with one name the one that is in use has it. The other gets one as well, and nothing is deleted.
func TestTwoRecordsWithOneName(t *testing.T) {
	for _, tc := range []struct {
		name  string
		child string // which of the two has one
		mount string // which of the two is mounted
		wins  string
	}{
		{"the younger", "", "", "two"}, {"the one with a child", "one", "", "one"}, {"the one that is mounted", "two", "one", "one"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDamaged(t, "one")
			s := open(t, d.cfg)
			assert.NilError(t, s.Create(t.Context(), "two", "", store.CreateOptions{}))
			i, err := s.Stat(t.Context(), "two")
			assert.NilError(t, err)
			d.ids["two"] = i.ID
			if tc.child != "" {
				assert.NilError(t, s.Create(t.Context(), "child", tc.child, store.CreateOptions{}))
			}
			if tc.mount != "" {
				_, err := s.Mount(t.Context(), tc.mount, store.MountOptions{})
				assert.NilError(t, err)
			}
			assert.NilError(t, s.Close(t.Context()))
			d.rewrite("two", map[string]any{"name": "one"})
			s = open(t, d.cfg)
			loser := map[string]string{"one": "two", "two": "one"}[tc.wins]
			for _, repair := range []bool{false, true} {
				found, lines := check(t, s, store.CheckOptions{Repair: repair})
				assert.DeepEqual(t, lines, []string{"name-hidden one"})
				assert.Equal(t, found[0].Repaired != "", repair)
				assert.Assert(t, strings.HasPrefix(found[0].Detail, "layer "+d.ids[loser]), found[0].Detail)
			}
			for range 2 {
				for name, id := range map[string]string{"one": d.ids[tc.wins], d.ids[loser]: d.ids[loser]} {
					i, err := s.Stat(t.Context(), name)
					assert.NilError(t, err)
					assert.Equal(t, i.ID, id)
				}
				assert.NilError(t, s.Close(t.Context()))
				s = open(t, d.cfg)
			}
			_, lines := check(t, s, store.CheckOptions{})
			assert.Equal(t, len(lines), 0, "%v", lines)
		})
	}
}

var _ backend.Lister = (*listing)(nil)
