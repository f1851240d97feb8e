package zfs

import (
	"encoding/binary"
	"testing"

	"gotest.tools/v3/assert"
)

func records(numbers ...uint64) (text []byte) {
	for _, n := range numbers {
		text = binary.NativeEndian.AppendUint64(text, n)
	}
	return text
}

func TestParseRecords(t *testing.T) {
	objects, err := parseRecords(records(recordInUse, 2, 4, 4, 5, 1<<48, recordInUse, 7, 7))
	assert.NilError(t, err)
	assert.DeepEqual(t, objects, []uint64{2, 3, 4, 7})
	for name, text := range map[string][]byte{
		"backwards": records(recordInUse, 4, 2),
		"too many":  records(recordInUse, 0, 1<<48),
		"cut":       records(recordInUse, 1, 1)[:20],
	} {
		_, err := parseRecords(text)
		assert.Assert(t, err != nil, name)
	}
}

func FuzzParseRecords(f *testing.F) {
	f.Add(records(recordInUse, 2, 4, 4, 5, 1<<48))
	f.Add(records(recordInUse, 0, 1<<60))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 10*recordSize {
			return
		}
		for i := 0; i+recordSize <= len(text); i += recordSize { // keep what is asked for small
			first, last := binary.NativeEndian.Uint64(text[i+8:]), binary.NativeEndian.Uint64(text[i+16:])
			if last-first > 1<<16 && last-first < maxObjects {
				return
			}
		}
		objects, err := parseRecords(text)
		assert.Assert(t, err == nil || len(objects) == 0)
	})
}
