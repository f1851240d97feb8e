package graphdriver

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend"
)

// TestRefuse: a program that cannot work answers everything with the reason, whatever an earlier process was told.
func TestRefuse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "init.json")
	assert.NilError(t, saveInit(file, "test", Init{Home: "/home"}))
	r := newRig(t, Options{InitFile: file, Refuse: func() error { return errors.New("option sync is wrong") }})
	_, err := r.call("Init", Init{Home: "/home"})
	assert.ErrorContains(t, err, "option sync is wrong")
	for _, method := range []string{
		"Create", "CreateReadWrite", "Remove", "Get", "Put", "Exists", "GetMetadata", "Diff", "Changes", "DiffSize", "Capabilities", "Cleanup",
	} {
		_, err := r.call(method, arguments{ID: id("a")})
		assert.ErrorContains(t, err, "option sync is wrong", method)
	}
	assert.DeepEqual(t, r.ok("Status", arguments{}).Status, [][2]string{{"Backend", "not available"}, {"ERROR", "option sync is wrong"}})
	assert.Equal(t, len(r.opened), 0)
}

// TestUnseen: nothing is mounted where Docker would not see it.
func TestUnseen(t *testing.T) {
	var lost error
	r := newRig(t, Options{Unseen: func() error { return lost }})
	r.init()
	_, err := r.call("Get", arguments{ID: id("a")})
	assert.NilError(t, err)
	lost = errors.New("taken away")
	r.fake.take()
	_, err = r.call("Get", arguments{ID: id("a")})
	assert.ErrorContains(t, err, "taken away")
	assert.Equal(t, len(r.fake.take()), 0)
	_, err = r.call("Put", arguments{ID: id("a")})
	assert.NilError(t, err)
}

// A map that Linux would not take is refused before any layer is stored with it.
func TestRefusedMaps(t *testing.T) {
	good := []backend.IDRange{{Host: 7, Size: 9}}
	assert.NilError(t, Init{Home: "/h", UIDMaps: good, GIDMaps: good}.check())
	for name, bad := range map[string][]backend.IDRange{
		"beyond 2^32": {{Host: 4294967000, Size: 65536}},
		"up to 2^32":  {{Host: 1, Size: 4294967295}},
		"overlap":     {{Host: 7, Size: 9}, {Container: 8, Host: 100, Size: 9}},
	} {
		for _, i := range []Init{{Home: "/h", UIDMaps: bad, GIDMaps: good}, {Home: "/h", UIDMaps: good, GIDMaps: bad}} {
			assert.Assert(t, errdefs.IsInvalidArgument(i.check()), "%s: %v", name, i.check())
		}
	}
}
