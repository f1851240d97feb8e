package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/failpoint"
	"strata/backend/internal/tree"
	"strata/backend/regular"
)

// record is what layers/<id> holds. Its JSON names are part of the on-disk format (doc.go).
type record struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Parent   string            `json:"parent,omitempty"`   // ID
	Replaces string            `json:"replaces,omitempty"` // ID
	State    State             `json:"state"`
	Sealed   bool              `json:"sealed,omitempty"`
	Detached bool              `json:"detached,omitempty"`
	Draft    bool              `json:"draft,omitempty"`
	Link     bool              `json:"link,omitempty"`
	Lent     bool              `json:"lent,omitempty"`
	Created  time.Time         `json:"created"`
	Limit    int64             `json:"limit,omitempty"`
	Label    string            `json:"label,omitempty"`
	IDMap    *backend.IDMap    `json:"idmap,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Applied  *Applied          `json:"applied,omitempty"`
}

// What the name of a file in layers/ says beyond the layer's ID (doc.go). Renaming a file is all it
// takes to change it.
const (
	newSuffix  = ".new"            // the layer is being made, or a draft, or the record is about to replace another
	partSuffix = ".part"           // the layer is being filled
	goneSuffix = ".gone"           // the layer was removed
	tmpSuffix  = regular.Temporary // text that is being written
)

// maxRecord is how long a record may be, in bytes: twice the longest message that containerd takes, which has its labels.
const maxRecord = 32 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode returns v as one line of JSON and one line with the CRC-32C of the first, in hex.
func encode(v any) ([]byte, error) {
	line, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	line = append(line, '\n')
	return fmt.Appendf(line, "%08x\n", crc32.Checksum(line, castagnoli)), nil
}

// decode is the reverse of encode. ErrDataLoss if the text is not what encode wrote.
func decode(text []byte, v any) error {
	line, sum, ok := bytes.Cut(text, []byte{'\n'})
	if !ok {
		return fmt.Errorf("no complete line: %w", errdefs.ErrDataLoss)
	}
	want := fmt.Sprintf("%08x\n", crc32.Checksum(text[:len(line)+1], castagnoli))
	if string(sum) != want {
		return fmt.Errorf("checksum does not match: %w", errdefs.ErrDataLoss)
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	}
	return nil
}

// syncer makes a file durable whose text has just been written. nil leaves that to the kernel.
type syncer func(path string) error

func syncFile(path string) error { return tree.Sync(path) }

// writeFile replaces path by what encode makes of v. After a crash path holds the old or the new
// text, whole; if synced the new one survives a power cut once its directory is synced, too.
func writeFile(path string, v any, sync syncer) error {
	if err := regular.Replace(path, func(tmp string) error { return writeText(tmp, v, sync) }); err != nil {
		return fmt.Errorf("write %s: %w", path, err) // the next Open sweeps what stays
	}
	return failpoint.Hit("store.record.renamed")
}

// writeText makes the file at path hold what encode makes of v.
func writeText(path string, v any, sync syncer) error {
	text, err := encode(v)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if len(text) > maxRecord {
		return fmt.Errorf("a record of %d bytes, at most %d: %w", len(text), maxRecord, errdefs.ErrInvalidArgument)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	if sync != nil {
		if err := sync(path); err != nil {
			return err
		}
	}
	return failpoint.Hit("store.record.written")
}

// readFile reads what writeFile wrote.
func readFile(path string, v any) error {
	text, err := regular.ReadOwn(path, maxRecord)
	if err != nil {
		return err
	}
	return decodeFile(path, text, v)
}

func decodeFile(path string, text []byte, v any) error {
	if err := decode(text, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// reading is what lies in layers/.
type reading struct {
	recs []record
	bad  []*badRecord
	torn map[string]*badRecord // by ID: of these recs has no more than an ID and a state, which the files' names say
}

// readRecords reads all records below dir. The name of one says if its layer is being made or filled, or was
// removed; then the text may be torn, and the record has an ID and a state only. One that is whole and was about to get
// its name, perhaps another's, gets that if sweep is set. What a crashed process has left besides is ignored, and removed if
// sweep is set. What cannot be a record by its name is ignored: it is for Check to name.
func readRecords(dir string, sweep bool) (reading, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return reading{}, fmt.Errorf("list records: %w", err)
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
	r := reading{torn: map[string]*badRecord{}}
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
func (r *reading) add(dir, id string, there map[string]bool, sweep bool) (stale []string) {
	names := recordNames(id, there)
	rec, bad := readRecord(dir, names[0], sweep)
	if bad != nil && names[0] == id+newSuffix && len(names) > 1 {
		if errdefs.IsDataLoss(bad.err) { // torn before it could replace the other; else its owner has done so meanwhile
			stale = append(stale, names[0])
		}
		names = names[1:]
		rec, bad = readRecord(dir, names[0], sweep)
	}
	_, state := parseName(names[0])
	switch {
	case bad == nil:
		r.recs = append(r.recs, rec)
	case errdefs.IsDataLoss(bad.err) && state != "":
		r.recs = append(r.recs, record{ID: id, Name: id, State: state, Sealed: state == StateRemoving}) // it may be a parent
		r.torn[id] = bad
	default:
		r.bad = append(r.bad, bad)
		return nil
	}
	if names[0] != id+partSuffix && there[id+partSuffix] && state != StateRemoving { // whose filling had ended
		stale = append(stale, id+partSuffix)
	}
	return stale
}

// readRecord reads one record for readRecords.
func readRecord(dir, name string, sweep bool) (record, *badRecord) {
	path := filepath.Join(dir, name)
	id, state := parseName(name)
	r, bad := readText(path, id)
	if bad != nil {
		bad.file = name
		return r, bad
	}
	switch {
	case state == StateCreating && r.State == StateReady && sweep && !r.Draft:
		if err := os.Rename(path, filepath.Join(dir, id)); err != nil {
			return r, &badRecord{id: id, file: name, says: &r, err: err}
		}
	case state == StateRemoving, state == StateApplying:
		r.State = state
	}
	return r, nil
}

// readText reads the text of a record, and what it said if it is damaged.
func readText(path, id string) (r record, bad *badRecord) {
	text, err := regular.ReadOwn(path, maxRecord)
	if err != nil {
		return r, &badRecord{id: id, err: err}
	}
	if err = decodeFile(path, text, &r); err != nil {
		bad = &badRecord{id: id, err: err}
		bad.restore(text)
		return r, bad
	}
	if err = r.check(id); err != nil {
		bad = &badRecord{id: id, err: fmt.Errorf("record %s: %w", path, err)}
		if r.ID == id && !r.Link {
			bad.says = &r
		}
		return r, bad
	}
	return r, nil
}

// check refuses a record that is whole and not one of the layer with that ID, or not of this version's. ErrFailedPrecondition.
func (r *record) check(id string) error {
	switch r.State {
	case StateCreating, StateReady, StateApplying, StateRemoving:
	default:
		return fmt.Errorf("it has the state %.64q, which this version of strata does not know: %w", r.State, errdefs.ErrFailedPrecondition)
	}
	switch {
	case r.ID != id:
		return fmt.Errorf("it describes layer %.120q: %w", r.ID, errdefs.ErrFailedPrecondition)
	case r.Link && r.Parent == "":
		return fmt.Errorf("it describes another name of no layer: %w", errdefs.ErrFailedPrecondition)
	case r.Replaces == r.ID:
		return fmt.Errorf("it describes a layer in the place of itself: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// parseName splits the name of a record. The state is "" if the text has it.
func parseName(name string) (id string, state State) {
	if id, ok := strings.CutSuffix(name, newSuffix); ok {
		return id, StateCreating
	}
	if id, ok := strings.CutSuffix(name, partSuffix); ok {
		return id, StateApplying
	}
	if id, ok := strings.CutSuffix(name, goneSuffix); ok {
		return id, StateRemoving
	}
	return name, ""
}
