package store_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/loopfs"
	"strata/backend/store"
)

// diskRecord is a record as it lies in layers/.
type diskRecord struct {
	ID      string            `json:"id"`
	Name    string            `json:"name"`
	Parent  string            `json:"parent"`
	State   store.State       `json:"state"`
	Sealed  bool              `json:"sealed"`
	Draft   bool              `json:"draft"`
	Link    bool              `json:"link"`
	Limit   int64             `json:"limit"`
	Lent    bool              `json:"lent"`
	IDMap   *backend.IDMap    `json:"idmap"`
	Labels  map[string]string `json:"labels"`
	Applied *store.Applied    `json:"applied"`

	suffix string // of the file's name
}

// readDisk reads all records of a store that nobody uses at the moment. Each layer has exactly one.
func readDisk(t *testing.T, root string) map[string]diskRecord {
	t.Helper()
	dir := filepath.Join(root, "layers")
	entries, err := os.ReadDir(dir)
	assert.NilError(t, err)
	recs := map[string]diskRecord{}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		assert.NilError(t, err)
		line, _, _ := bytes.Cut(text, []byte("\n"))
		var r diskRecord
		assert.NilError(t, json.Unmarshal(line, &r), e.Name())
		id := e.Name()
		if i := strings.IndexByte(id, '.'); i >= 0 {
			id, r.suffix = id[:i], id[i:]
		}
		assert.Check(t, r.ID == id, "%s describes %s", e.Name(), r.ID)
		if other, twice := recs[id]; twice {
			t.Errorf("layer %s has two records: %q and %q", id, other.suffix, r.suffix)
		}
		recs[id] = r
	}
	return recs
}

// checkAtRest holds memory, records, data, logs and mounts of a store that nobody uses at the moment to each other.
func (p *parallel) checkAtRest() {
	t := p.t
	assert.NilError(t, p.store.Settle(t.Context()))
	infos, err := p.store.List(t.Context())
	assert.NilError(t, err)
	recs := readDisk(t, p.cfg.Root)
	p.checkRecords(infos, recs)
	p.checkMemory(infos, recs)
	p.checkDirectories(infos, recs)
	p.checkFindings()
}

// checkRecords compares what the store says with what lies on disk.
func (p *parallel) checkRecords(infos []store.Info, recs map[string]diskRecord) {
	t := p.t
	listed := map[string]bool{}
	for _, i := range infos {
		listed[i.ID] = true
		r, ok := recs[i.ID]
		if !ok {
			t.Errorf("layer %q (%s) has no record", i.Name, i.ID)
			continue
		}
		if i.State == store.StateApplying {
			assert.Check(t, r.suffix == ".part", "%q is applying, its record is %q", i.Name, r.suffix)
			continue // only the name of the record counts
		}
		assert.Check(t, r.Name == i.Name && r.Sealed == i.Sealed && r.State == i.State && r.Limit == i.Limit && r.Link == i.Link && r.Lent == i.Lent,
			"record %+v of %+v", r, i)
		assert.Check(t, (r.suffix == ".new") == r.Draft && r.suffix != ".part", "record %q of %+v", r.suffix, i)
		assert.Check(t, mapsEqual(r.Labels, i.Labels), "labels %v of %+v", r.Labels, i)
		assert.Check(t, r.IDMap.Equal(i.IDMap), "ID map %v of %+v", r.IDMap, i)
	}
	names := map[string]string{}
	for id, r := range recs {
		if r.suffix == ".gone" {
			continue
		}
		assert.Check(t, listed[id], "layer %q (%s) has a record, and nobody can reach it: %+v", r.Name, id, r)
		if r.suffix != ".part" {
			assert.Check(t, names[r.Name] == "", "layers %s and %s are both called %q", id, names[r.Name], r.Name)
			names[r.Name] = id
		}
	}
}

func mapsEqual(a, b map[string]string) bool {
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return len(a) == len(b)
}

// checkMemory counts layers and children.
func (p *parallel) checkMemory(infos []store.Info, recs map[string]diskRecord) {
	t := p.t
	children, gone := map[string]int{}, 0
	for _, r := range recs {
		children[r.Parent]++
		if r.suffix == ".gone" {
			gone++
		}
	}
	for id, r := range recs {
		assert.Check(t, r.suffix != ".gone" || children[id] > 0, "removed layer %q (%s) stays without children", r.Name, id)
	}
	states := map[store.State]int{}
	for _, i := range infos {
		states[i.State]++
		assert.Check(t, i.Children == children[i.ID], "%d records have the parent %q, which has %d children", children[i.ID], i.Name, i.Children)
		parent := ""
		if r, ok := recs[recs[i.ID].Parent]; ok {
			parent = r.Name
		}
		assert.Check(t, i.Parent == parent, "the parent of %q is %q in memory and %q on disk", i.Name, i.Parent, parent)
	}
	info, err := p.store.Info(t.Context())
	assert.NilError(t, err)
	assert.Check(t, info.Layers[store.StateReady] == states[store.StateReady] && info.Layers[store.StateApplying] == states[store.StateApplying],
		"in memory %v, reachable %v", info.Layers, states)
	assert.Check(t, info.Deleting == gone, "%d layers are being deleted, %d records say so", info.Deleting, gone)
	assert.Check(t, p.store.Damaged() == 0)
}

// checkDirectories looks for what lies about without a record.
func (p *parallel) checkDirectories(infos []store.Info, recs map[string]diskRecord) {
	var data, logs, mounted []string
	maybe := map[string]bool{}
	for id, r := range recs {
		if !r.Link {
			data = append(data, id)
		}
		if r.Applied != nil && r.Applied.Exact {
			logs = append(logs, id)
		}
		maybe[id] = r.suffix == ".part" || r.suffix == ".gone"
	}
	p.referee.mu.Lock()
	for id := range p.referee.foreign {
		data = append(data, id)
	}
	p.referee.mu.Unlock()
	for _, i := range infos {
		if i.Mounts > 0 {
			mounted = append(mounted, i.ID)
		}
	}
	p.sameNames(data, nil, "data", p.cfg.Backend)
	p.sameNames(logs, maybe, "logs")
	p.sameNames(mounted, map[string]bool{".active": true, ".own": true}, "mnt*") // beside mnt there is one for each ID map
	mounts, err := loopfs.MountsBelow(p.cfg.Root)
	assert.NilError(p.t, err)
	var on []string
	for _, m := range mounts {
		if filepath.Dir(filepath.Dir(m)) == p.cfg.Root {
			on = append(on, filepath.Base(m))
		}
	}
	slices.Sort(on)
	slices.Sort(mounted)
	assert.Check(p.t, slices.Equal(on, mounted), "mounted are %q, counted are %q", on, mounted)
}

// sameNames compares what directories hold with what they should. What may be there is not missed.
func (p *parallel) sameNames(want []string, maybe map[string]bool, dir ...string) {
	p.t.Helper()
	files, err := filepath.Glob(filepath.Join(append(append([]string{p.cfg.Root}, dir...), "*")...))
	assert.NilError(p.t, err)
	there := map[string]bool{}
	for _, file := range files {
		id := filepath.Base(file)
		there[id] = true
		assert.Check(p.t, maybe[id] || slices.Contains(want, id), "nobody knows %s", file)
	}
	for _, id := range want {
		assert.Check(p.t, there[id] || maybe[id], "%s is not in %s", id, dir)
	}
}

// checkFindings: a store at rest has nothing to find but layers that somebody has not finished.
func (p *parallel) checkFindings() {
	findings, err := p.store.Check(p.t.Context(), store.CheckOptions{Deep: true})
	assert.NilError(p.t, err)
	for _, f := range findings {
		assert.Check(p.t, f.Kind.Harmless(), "%+v", f)
	}
}
