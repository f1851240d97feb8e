package device

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

func records(numbers ...uint64) (text []byte) {
	for _, n := range numbers {
		text = binary.NativeEndian.AppendUint64(text, n)
	}
	return text
}

func TestParseRecords(t *testing.T) {
	objects, err := parseRecords(records(recordInUse, 2, 4, recordFree, 5, 1<<48, recordInUse, 7, 7))
	assert.NilError(t, err)
	assert.DeepEqual(t, objects, []uint64{2, 3, 4, 7})
	for name, text := range map[string][]byte{
		"backwards": records(recordInUse, 4, 2),
		"unknown":   records(8, 2, 4),
		"too many":  records(recordInUse, 0, 1<<48),
		"cut":       records(recordInUse, 1, 1)[:20],
	} {
		_, err := parseRecords(text)
		assert.Assert(t, err != nil, name)
	}
}

func FuzzParseRecords(f *testing.F) {
	f.Add(records(recordInUse, 2, 4, recordFree, 5, 1<<48))
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

// kernel is one whose file to write to is at an offset of the request.
type kernel struct {
	cookie  int
	answers []byte // written to the file
	err     error  // for a file that is open
	seen    request
}

func (k *kernel) ask(number uintptr, c *request) error {
	k.seen = *c
	fd := binary.NativeEndian.Uint64(c[k.cookie:])
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || number != requestDiff {
		return unix.EBADF
	}
	if k.err == nil {
		if _, err := unix.Write(int(fd), k.answers); err != nil {
			return err
		}
	}
	return k.err
}

func TestProbe(t *testing.T) {
	for name, c := range map[string]struct {
		kernel
		fine bool
	}{
		"as expected":        {kernel{cookie: offsetCookie, err: unix.ENOENT}, true},
		"field has moved":    {kernel{cookie: offsetCookie + 8, err: unix.ENOENT}, false},
		"nothing is checked": {kernel{cookie: offsetCookie}, false},
		"no such request":    {kernel{cookie: offsetCookie, err: unix.EBADF}, false},
	} {
		d := Device{ask: c.ask}
		err := d.Probe("pool/layers")
		assert.Equal(t, err == nil, c.fine, "%s: %v", name, err)
		assert.Assert(t, err == nil || errdefs.IsNotImplemented(err), "%s: %v", name, err)
	}
	d := Device{ask: (&kernel{}).ask}
	assert.Assert(t, errdefs.IsInvalidArgument(d.Probe(strings.Repeat("x", maxName))))
}

func TestChanged(t *testing.T) {
	k := kernel{cookie: offsetCookie, answers: records(recordInUse, 2, 3)}
	d := Device{ask: k.ask}
	objects, err := d.Changed("p/a@a", "p/b@b")
	assert.NilError(t, err)
	assert.DeepEqual(t, objects, []uint64{2, 3})
	assert.Equal(t, string(k.seen[offsetName:offsetName+6]), "p/b@b\x00")
	assert.Equal(t, string(k.seen[offsetValue:offsetValue+6]), "p/a@a\x00")
	k.err = unix.EXDEV
	_, err = d.Changed("p/a@a", "p/b@b")
	assert.ErrorIs(t, err, unix.EXDEV)
	_, err = d.Changed("p/a@a", strings.Repeat("x", maxName))
	assert.Assert(t, errdefs.IsInvalidArgument(err), "%v", err)
}
