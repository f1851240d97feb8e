package records

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend"
)

func sample() Record {
	return Record{
		ID: "abcdefghijklmnop", Name: "a layer", Parent: "ponmlkjihgfedcba", State: StateReady, Sealed: true,
		Created: time.Date(2026, 11, 21, 1, 2, 3, 4, time.UTC), Limit: 1 << 30, Label: "system_u:object_r:x:s0:c1,c2",
		IDMap:   &backend.IDMap{UIDs: []backend.IDRange{{Host: 100000, Size: 65536}}, GIDs: []backend.IDRange{{Host: 100000, Size: 65536}}},
		Labels:  map[string]string{"k": "v"},
		Applied: &Applied{Size: 5, Bytes: 10240, Digest: "sha256:00", Exact: true},
	}
}

func TestRecordRoundTrip(t *testing.T) {
	text, err := encode(sample())
	assert.NilError(t, err)
	var got Record
	assert.NilError(t, decode(text, &got))
	assert.DeepEqual(t, got, sample())
}

// Every torn or rotten form of a record is recognised as such.
func TestRecordDamage(t *testing.T) {
	text, err := encode(sample())
	assert.NilError(t, err)
	for n := range text {
		var r Record
		assert.Assert(t, errdefs.IsDataLoss(decode(text[:n], &r)), "cut to %d bytes", n)
		rotten := append([]byte(nil), text...)
		rotten[n] ^= 4
		assert.Assert(t, errdefs.IsDataLoss(decode(rotten, &r)), "bit flipped in byte %d", n)
	}
}

// restored returns what a damaged record of the sample said.
func restored(text []byte) (*Record, string) {
	b := Bad{ID: sample().ID}
	b.restore(text)
	return b.Says, b.How
}

// A record with one wrong bit, wherever that is, is put right; of one with two nothing is made up.
func TestRestore(t *testing.T) {
	text, err := encode(sample())
	assert.NilError(t, err)
	for bit := range len(text) * 8 {
		rotten := bytes.Clone(text)
		rotten[bit/8] ^= 1 << (bit % 8)
		got, how := restored(rotten)
		assert.Assert(t, got != nil, "bit %d", bit)
		assert.DeepEqual(t, *got, sample())
		assert.Assert(t, how != "")
		again := (bit*7 + 13) % (len(text) * 8)
		rotten[again/8] ^= 1 << (again % 8)
		if got, _ = restored(rotten); got != nil && again != bit {
			assert.Equal(t, got.Parent == "", false, "bits %d and %d", bit, again)
		}
	}
	edited := bytes.Replace(text, []byte("a layer"), []byte("another"), 1)
	got, how := restored(edited)
	assert.Assert(t, got != nil)
	assert.Equal(t, got.Name, "another")
	assert.Assert(t, strings.Contains(how, "edited"), how)
	for name, text := range map[string][]byte{
		"another ID": bytes.Replace(text, []byte("abc"), []byte("xyz"), 1), "a part": text[:60], "nothing": nil, "zeros": make([]byte, len(text)),
		"a field nobody knows": bytes.Replace(text, []byte(`"parent"`), []byte(`"pearnt"`), 1), "short": []byte("12345678\n"),
	} {
		got, _ := restored(text)
		assert.Assert(t, got == nil, "%s: %v", name, got)
	}
}

func FuzzRecord(f *testing.F) {
	text, err := encode(sample())
	assert.NilError(f, err)
	f.Add(text)
	f.Add([]byte("{}\n"))
	f.Add([]byte("\n00000000\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var r Record
		if err := decode(text, &r); err != nil {
			assert.Assert(t, errdefs.IsDataLoss(err))
			return
		}
		again, err := encode(r)
		assert.NilError(t, err)
		var r2 Record
		assert.NilError(t, decode(again, &r2))
	})
}

func TestReadRecords(t *testing.T) {
	dir := t.TempDir()
	good := sample()
	assert.NilError(t, WriteFile(filepath.Join(dir, good.ID), good, SyncFile))
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "torn"), []byte(`{"id":"torn"`), 0o600))
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "half"+tmpSuffix), nil, 0o600))
	assert.NilError(t, WriteFile(filepath.Join(dir, "misnamed"), good, nil))
	half, made, gone, draft := good, good, good, good
	half.ID, half.State, made.ID, gone.ID = "half", StateCreating, "made", "gone"
	assert.NilError(t, WriteFile(filepath.Join(dir, "half"+newSuffix), half, nil))
	assert.NilError(t, WriteFile(filepath.Join(dir, "made"+newSuffix), made, nil))
	assert.NilError(t, WriteFile(filepath.Join(dir, "gone"+goneSuffix), gone, nil))
	gone.State = StateRemoving
	// A record that was about to replace another does, unless it is torn.
	old, torn, changed := good, good, good
	old.ID, torn.ID, changed.ID, changed.Name = "replaced", "replaced2", "replaced", "changed"
	assert.NilError(t, WriteFile(filepath.Join(dir, old.ID), old, nil))
	assert.NilError(t, WriteFile(filepath.Join(dir, old.ID+newSuffix), changed, nil))
	assert.NilError(t, WriteFile(filepath.Join(dir, torn.ID), torn, nil))
	assert.NilError(t, os.WriteFile(filepath.Join(dir, torn.ID+newSuffix), []byte(`{"id":"repl`), 0o600))
	// A removal that was cut off goes on, whatever else there is.
	assert.NilError(t, WriteFile(filepath.Join(dir, gone.ID), good, nil))
	assert.NilError(t, WriteFile(filepath.Join(dir, gone.ID+newSuffix), good, nil))
	// One that was being filled counts as long as its filling has not ended.
	part, filled := good, good
	part.ID, filled.ID = "part", "part2"
	for name, r := range map[string]Record{"part.part": part, "part2.part": filled, "part2": filled, "part3.part": good} {
		assert.NilError(t, WriteFile(filepath.Join(dir, name), r, nil))
	}
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "part4"+partSuffix), []byte(`{"id`), 0o600))
	part.State = StateApplying
	draft.ID, draft.Draft = "draft", true
	assert.NilError(t, WriteFile(filepath.Join(dir, "draft"+newSuffix), draft, nil))
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "torn1"+newSuffix), []byte(`{"id":"torn1"`), 0o600))
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "Not-ours"+newSuffix), nil, 0o600))

	read, err := In(dir).ReadAll(true)
	assert.NilError(t, err)
	assert.DeepEqual(t, read.Records, []Record{
		good, draft, gone, half, made, part, filled,
		{ID: "part4", Name: "part4", State: StateApplying},
		changed, torn,
		{ID: "torn1", Name: "torn1", State: StateCreating},
	})
	var bad []string
	for _, b := range read.Bad {
		bad = append(bad, b.File)
	}
	assert.DeepEqual(t, bad, []string{"misnamed", "part3" + partSuffix, "torn"})
	assert.DeepEqual(t, slices.Sorted(maps.Keys(read.Torn)), []string{"part4", "torn1"})
	_, err = os.Stat(filepath.Join(dir, "made"))
	assert.NilError(t, err, "the layer was made and lacks only its name")
	_, err = os.Stat(filepath.Join(dir, "draft"+newSuffix))
	assert.NilError(t, err, "nobody said that the draft is durable")
	_, err = os.Stat(filepath.Join(dir, "half"+tmpSuffix))
	assert.Assert(t, os.IsNotExist(err), "the temporary file was not swept")
}

func TestCheckName(t *testing.T) {
	for _, tc := range []struct {
		name string
		ok   bool
	}{
		{"a", true},
		{strings.Repeat("f", 64) + "-init", true},
		{"k8s.io/12/extract-1 sha256:ab", true},
		{strings.Repeat("x", 255), true},
		{"", false},
		{strings.Repeat("x", 256), false},
		{"a\nb", false},
		{"a\x00b", false},
		{"\xff", false},
	} {
		err := CheckName(tc.name)
		assert.Equal(t, err == nil, tc.ok, "%q: %v", tc.name, err)
		assert.Assert(t, err == nil || errdefs.IsInvalidArgument(err))
	}
}
