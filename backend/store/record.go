package store

import (
	"bytes"
	"encoding/json"
	"errors"
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
	newSuffix  = ".new"  // the layer is being made, or a draft, or the record is about to replace another
	partSuffix = ".part" // the layer is being filled
	goneSuffix = ".gone" // the layer was removed
	tmpSuffix  = ".tmp"  // text that is being written
)

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
	tmp := path + tmpSuffix
	err := writeText(tmp, v, sync)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp) // the next Open sweeps what stays
		return fmt.Errorf("write %s: %w", path, err)
	}
	return failpoint.Hit("store.record.renamed")
}

// writeText makes the file at path hold what encode makes of v.
func writeText(path string, v any, sync syncer) error {
	text, err := encode(v)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
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
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := decode(text, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// badRecord is a file in layers/ that could not be read.
type badRecord struct {
	id  string
	err error
}

// readRecords reads all records below dir. The name of one says if its layer is being made or filled, or was
// removed; then the text may be torn, and the record has an ID and a state only. One that is whole and was about to get
// its name, perhaps another's, gets that if sweep is set. What a crashed process has left besides is ignored, and removed if
// sweep is set.
func readRecords(dir string, sweep bool) (recs []record, bad []badRecord, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("list records: %w", err)
	}
	var stale, ids []string
	there := make(map[string]bool, len(entries))
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), tmpSuffix) {
			stale = append(stale, e.Name())
			continue
		}
		id, _ := parseName(e.Name())
		if !there[id] && !there[id+newSuffix] && !there[id+partSuffix] && !there[id+goneSuffix] {
			ids = append(ids, id)
		}
		there[e.Name()] = true
	}
	for _, id := range ids {
		name, others, err := chooseRecord(dir, id, there)
		if err != nil {
			return nil, nil, err
		}
		stale = append(stale, others...)
		r, err := readRecord(dir, name, sweep)
		if err != nil {
			bad = append(bad, badRecord{id: name, err: err})
			continue
		}
		recs = append(recs, r)
	}
	if !sweep {
		return recs, bad, nil
	}
	for _, name := range stale {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return nil, nil, fmt.Errorf("sweep records: %w", err)
		}
	}
	return recs, bad, nil
}

// chooseRecord returns which of a layer's records counts, and those that do not: a crash can leave several. Of one that was removed
// the others go with its data.
func chooseRecord(dir, id string, there map[string]bool) (name string, stale []string, err error) {
	fresh, part := there[id+newSuffix], there[id+partSuffix]
	switch {
	case there[id+goneSuffix]:
		return id + goneSuffix, nil, nil
	case fresh && (there[id] || part):
		var r record
		switch err := readFile(filepath.Join(dir, id+newSuffix), &r); {
		case errdefs.IsDataLoss(err): // torn before it could replace the other
			stale, fresh = append(stale, id+newSuffix), false
		case errors.Is(err, os.ErrNotExist): // its owner has done so meanwhile
			fresh = false
		case err != nil:
			return "", nil, err
		}
	}
	if part && (fresh || there[id]) { // whose filling had ended
		stale = append(stale, id+partSuffix)
	}
	switch {
	case fresh:
		return id + newSuffix, stale, nil
	case there[id]:
		return id, stale, nil
	}
	return id + partSuffix, stale, nil
}

// readRecord reads one record for readRecords.
func readRecord(dir, name string, sweep bool) (record, error) {
	path := filepath.Join(dir, name)
	id, state := parseName(name)
	var r record
	err := readFile(path, &r)
	if err == nil && (r.ID != id || backend.CheckID(r.ID) != nil) {
		err = fmt.Errorf("record %s describes layer %q: %w", path, r.ID, errdefs.ErrDataLoss)
	}
	switch {
	case errdefs.IsDataLoss(err) && state != "" && backend.CheckID(id) == nil:
		return record{ID: id, Name: id, State: state}, nil
	case err != nil:
		return r, err
	case state == StateCreating && r.State == StateReady && sweep && !r.Draft:
		return r, os.Rename(path, filepath.Join(dir, id))
	case state == StateRemoving, state == StateApplying:
		r.State = state
	}
	return r, nil
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
