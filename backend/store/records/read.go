package records

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/regular"
)

// Reading is what lies in the directory.
type Reading struct {
	Records []Record
	Bad     []*Bad
	Torn    map[string]*Bad // by ID: of these Records has no more than an ID and a state, which the files' names say
}

// ReadAll reads all records. The name of one says if its layer is being made or filled, or was
// removed; then the text may be torn, and the record has an ID and a state only. One that is whole and was about to get
// its name, perhaps another's, gets that if sweep is set. What a crashed process has left besides is ignored, and removed if
// sweep is set. What cannot be a record by its name is ignored: it is for Check to name.
func (d Dir) ReadAll(sweep bool) (Reading, error) {
	dir := d.path
	entries, err := os.ReadDir(dir)
	if err != nil {
		return Reading{}, fmt.Errorf("list records: %w", err)
	}
	var stale, ids []string
	there := make(map[string]bool, len(entries))
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), tmpSuffix) {
			if e.Type().IsRegular() {
				stale = append(stale, e.Name())
			}
			continue
		}
		id, _ := parseName(e.Name())
		if backend.CheckID(id) != nil {
			continue
		}
		if len(recordNames(id, there)) == 0 {
			ids = append(ids, id)
		}
		there[e.Name()] = true
	}
	r := Reading{Torn: map[string]*Bad{}}
	for _, id := range ids {
		stale = append(stale, r.add(dir, id, there, sweep)...)
	}
	if !sweep {
		return r, nil
	}
	for _, name := range stale {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return r, fmt.Errorf("sweep records: %w", err)
		}
	}
	return r, nil
}

// recordNames lists a layer's records, the one that counts first: a crash can leave several. Of one that was removed
// the others go with its data.
func recordNames(id string, there map[string]bool) (names []string) {
	if there[id+goneSuffix] {
		return []string{id + goneSuffix}
	}
	for _, name := range []string{id + newSuffix, id, id + partSuffix} {
		if there[name] {
			names = append(names, name)
		}
	}
	return names
}

// add reads the record of one layer and returns those that do not count. Beside a bad one none is given up.
func (r *Reading) add(dir, id string, there map[string]bool, sweep bool) (stale []string) {
	names := recordNames(id, there)
	rec, bad := readRecord(dir, names[0], sweep)
	if bad != nil && names[0] == id+newSuffix && len(names) > 1 {
		if errdefs.IsDataLoss(bad.Err) { // torn before it could replace the other; else its owner has done so meanwhile
			stale = append(stale, names[0])
		}
		names = names[1:]
		rec, bad = readRecord(dir, names[0], sweep)
	}
	_, state := parseName(names[0])
	switch {
	case bad == nil:
		r.Records = append(r.Records, rec)
	case errdefs.IsDataLoss(bad.Err) && state != "":
		r.Records = append(r.Records, Record{ID: id, Name: id, State: state, Sealed: state == StateRemoving}) // it may be a parent
		r.Torn[id] = bad
	default:
		r.Bad = append(r.Bad, bad)
		return nil
	}
	if names[0] != id+partSuffix && there[id+partSuffix] && state != StateRemoving { // whose filling had ended
		stale = append(stale, id+partSuffix)
	}
	return stale
}

// readRecord reads one record for ReadAll.
func readRecord(dir, name string, sweep bool) (Record, *Bad) {
	path := filepath.Join(dir, name)
	id, state := parseName(name)
	r, bad := readText(path, id)
	if bad != nil {
		bad.File = name
		return r, bad
	}
	switch {
	case state == StateCreating && r.State == StateReady && sweep && !r.Draft:
		if err := os.Rename(path, filepath.Join(dir, id)); err != nil {
			return r, &Bad{ID: id, File: name, Says: &r, Err: err}
		}
	case state == StateRemoving, state == StateApplying:
		r.State = state
	}
	return r, nil
}

// Reread reads one file of the directory anew, which is to be the record of the layer with that ID.
func (d Dir) Reread(file, id string) (Record, *Bad) { return readText(filepath.Join(d.path, file), id) }

// Ready counts the records that say for sure that a layer has data.
func (d Dir) Ready() (n int, err error) {
	entries, err := os.ReadDir(d.path)
	for _, e := range entries {
		if backend.CheckID(e.Name()) != nil { // it is no ready layer's
			continue
		}
		if r, bad := d.Reread(e.Name(), e.Name()); bad == nil && r.State == StateReady && !r.Link {
			n++
		}
	}
	return n, err
}

// Count counts the records, whatever they say.
func (d Dir) Count() (n int, err error) {
	entries, err := os.ReadDir(d.path)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), tmpSuffix) {
			n++
		}
	}
	return n, err
}

// readText reads the text of a record, and what it said if it is damaged.
func readText(path, id string) (r Record, bad *Bad) {
	text, err := regular.ReadOwn(path, maxRecord)
	if err != nil {
		return r, &Bad{ID: id, Err: err}
	}
	if err = decodeFile(path, text, &r); err != nil {
		bad = &Bad{ID: id, Err: err}
		bad.restore(text)
		return r, bad
	}
	if err = r.check(id); err != nil {
		bad = &Bad{ID: id, Err: fmt.Errorf("record %s: %w", path, err)}
		switch {
		case r.ID == id && !r.Link:
			bad.Says = &r
		case r.ID != id && backend.CheckID(r.ID) == nil:
			bad.Of = r.ID
		}
		return r, bad
	}
	return r, nil
}
