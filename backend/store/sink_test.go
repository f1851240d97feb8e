package store_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/internal/layertar/tartest"
	"strata/backend/store"
)

// TestSinker holds that a backend which keeps no files gives the tars back that its layers were filled
// with, byte for byte, one on top of another, and that what is not a tar leaves no layer.
func TestSinker(t *testing.T) {
	ctx := t.Context()
	m := backendtest.NewMemory()
	s, err := store.Open(ctx, store.Config{
		Root: t.TempDir(), Backend: "memory", ExactDiffs: true,
		New: func(context.Context, backend.Env) (backend.Backend, error) { return m, nil },
	})
	assert.NilError(t, err)
	defer func() { assert.NilError(t, s.Close(context.WithoutCancel(ctx))) }()
	tars := map[string][]byte{
		"base": tartest.Make(t, tartest.Dir("d"), tartest.File("d/f", strings.Repeat("x", 300000)), tartest.Link("late", "d/g"),
			tartest.File("d/g", "once"), tartest.File("d/g", "again"), tartest.Symlink("s", "d"), tartest.File("s/h", "h")),
		"top": append(tartest.Make(t, tartest.File("d/.wh.f", ""), tartest.File("d/n", "n"), tartest.File(".wh.late", "")), "garbage"...),
	}
	for _, l := range [][2]string{{"base", ""}, {"top", "base"}} {
		assert.NilError(t, s.Create(ctx, l[0], l[1], store.CreateOptions{}))
		_, err := s.Apply(ctx, l[0], bytes.NewReader(tars[l[0]]))
		assert.NilError(t, err)
		var out bytes.Buffer
		assert.NilError(t, s.Diff(ctx, l[0], l[1], &out))
		assert.Assert(t, bytes.Equal(out.Bytes(), tars[l[0]]), l[0])
	}
	assert.NilError(t, s.Create(ctx, "torn", "top", store.CreateOptions{}))
	_, err = s.Apply(ctx, "torn", bytes.NewReader(tars["base"][:1000]))
	assert.Assert(t, err != nil)
	assert.NilError(t, s.Remove(ctx, "torn"))
}
