package store_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/store"
)

// hasty takes layers of its own for another program's, as a backend may that looks while they are being made.
type hasty struct {
	backend.Backend
	home string
}

func (h *hasty) Adoptable(context.Context) (list []backend.Foundling, err error) {
	entries, err := os.ReadDir(h.home)
	for _, e := range entries {
		list = append(list, backend.Foundling{ID: e.Name()})
	}
	return list, err
}

func (h *hasty) Adopt(context.Context, backend.Layer) error { return nil }

func TestAdoptNothingOfOurs(t *testing.T) {
	needRoot(t)
	home := ""
	s, err := store.Open(t.Context(), store.Config{
		Root: filepath.Join(t.TempDir(), "s"), Backend: "dir",
		New: func(ctx context.Context, env backend.Env) (backend.Backend, error) {
			home = env.Home
			b, err := backendtest.NewDir(ctx, env)
			return &hasty{b, env.Home}, err
		},
	})
	assert.NilError(t, err)
	defer func() { assert.NilError(t, s.Close(t.Context())) }()
	assert.NilError(t, s.Create(t.Context(), "ours", "", store.CreateOptions{}))
	findings, err := s.Check(t.Context(), store.CheckOptions{})
	assert.NilError(t, err)
	assert.Equal(t, len(findings), 0, "%v", findings)
	assert.NilError(t, os.Mkdir(filepath.Join(home, "other"), 0o755))
	findings, err = s.Check(t.Context(), store.CheckOptions{})
	assert.NilError(t, err)
	assert.Equal(t, findings[0].Kind, store.FindingNotice, "%v", findings)
	list, err := s.Adopt(t.Context(), true)
	assert.NilError(t, err)
	assert.DeepEqual(t, list, []store.Adoption{{Name: "other", Adopted: true}})
}
