package backendtest_test

import (
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
)

// TestMemory holds the example of a sink to what all sinks are held to.
func TestMemory(t *testing.T) {
	for name, m := range map[string]*backend.IDMap{"plain": nil, "mapped": {
		UIDs: []backend.IDRange{{Container: 0, Host: 7000, Size: 100}}, GIDs: []backend.IDRange{{Container: 0, Host: 8000, Size: 100}},
	}} {
		t.Run(name, func(t *testing.T) {
			backendtest.Sinks(t, func(t *testing.T) backendtest.Filled {
				t.Helper()
				uid, gid, err := m.Root()
				assert.NilError(t, err)
				b, l := backendtest.NewMemory(), backend.Layer{ID: "one", IDMap: m}
				assert.NilError(t, b.Create(t.Context(), l))
				source := func() (backend.Source, error) { return b.Source(t.Context(), l) }
				return backendtest.Filled{
					Sink: func() (backend.Sink, error) { return b.Sink(t.Context(), l) }, Source: source, UID: uid, GID: gid,
					Tree: func() (backendtest.Tree, error) {
						s, err := source()
						if err != nil {
							return nil, err
						}
						return s.(*backendtest.MemoryTree).Tree(), nil
					},
				}
			})
		})
	}
}
