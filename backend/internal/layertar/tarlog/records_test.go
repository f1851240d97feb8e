package tarlog

import "testing"

// FuzzRecords takes apart what lies behind the checksums of a log.
func FuzzRecords(f *testing.F) {
	f.Add([]byte("\x01\x03abc\x02\x00\x03d/f\x05\x02\x02\x01g\x07"))
	f.Add([]byte("\x03\x00\x01s\x0a\x02\x00\x01\x02\x01\x01\x01x"))
	f.Fuzz(func(t *testing.T, log []byte) {
		d := decoder{b: log}
		for len(d.b) > 0 {
			r, err := d.record()
			if err != nil {
				return
			}
			if (len(r.raw) > 0) == (r.path != "") {
				t.Fatalf("%d bytes, path %q", len(r.raw), r.path)
			}
		}
	})
}
