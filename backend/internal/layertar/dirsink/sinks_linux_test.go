package dirsink_test

import (
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/internal/layertar/dirsink"
	"strata/backend/internal/layertar/tartest"
)

// TestSinks holds the sink that fills directories to what all sinks are held to.
func TestSinks(t *testing.T) {
	tartest.NeedRoot(t)
	m := &backend.IDMap{
		UIDs: []backend.IDRange{{Container: 0, Host: 7000, Size: 100}}, GIDs: []backend.IDRange{{Container: 0, Host: 8000, Size: 100}},
	}
	for name, o := range map[string]dirsink.Options{
		"plain": {}, "mapped": {IDMap: m}, "durable": {Durable: true}, "overlay": {Whiteouts: backend.WhiteoutsOverlay, Marks: backend.WhiteoutsOverlay},
	} {
		t.Run(name, func(t *testing.T) {
			backendtest.Sinks(t, func(t *testing.T) backendtest.Filled {
				t.Helper()
				uid, gid, err := o.IDMap.Root()
				assert.NilError(t, err)
				dir := t.TempDir()
				return backendtest.Filled{
					Sink:   func() (backend.Sink, error) { return dirsink.New(dir, o), nil },
					Source: func() (backend.Source, error) { return dirsink.Open(dir) },
					Tree:   func() (backendtest.Tree, error) { return backendtest.ReadTree(dir) },
					UID:    uid, GID: gid,
				}
			})
		})
	}
}
