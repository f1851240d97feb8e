package backendtest_test

import (
	"context"
	"testing"

	"strata/backend"
	"strata/backend/backendtest"
	"strata/backend/internal/layerdir"
	"strata/backend/internal/layertar/dirsink"
)

// TestSinking runs the suite on a backend of directories that takes layers through sinks, and that can list them and nothing else.
func TestSinking(t *testing.T) {
	backendtest.Run(t, backendtest.Factory{Backend: "sinking", FS: "tmpfs", New: func(ctx context.Context, env backend.Env) (backend.Backend, error) {
		b, err := backendtest.NewDir(ctx, env)
		return struct {
			backend.Backend
			backend.Lister
			backend.Sinker
		}{b, layerdir.Dirs{Env: env}, sinker{layerdir.Dirs{Env: env}}}, err
	}})
}

// sinker fills directories.
type sinker struct{ dirs layerdir.Dirs }

// Sink implements backend.Sinker.
func (s sinker) Sink(_ context.Context, l backend.Layer) (backend.Sink, error) {
	dir, err := s.dirs.Path(l.ID)
	return silent{dirsink.New(dir, dirsink.Options{IDMap: l.IDMap})}, err
}

// Source implements backend.Sinker.
func (s sinker) Source(_ context.Context, l backend.Layer) (backend.Source, error) {
	dir, err := s.dirs.Find(l.ID)
	if err != nil {
		return nil, err
	}
	return dirsink.Open(dir)
}

// silent leaves out attributes and says nothing of it, as if its storage kept them.
type silent struct{ backend.Sink }

// Begin implements backend.Sink.
func (s silent) Begin(ctx context.Context, u backend.Unpacker) error {
	return s.Sink.Begin(ctx, quiet{u})
}

type quiet struct{ backend.Unpacker }

// LeaveOut implements backend.Unpacker.
func (quiet) LeaveOut(string, string, error) {}
