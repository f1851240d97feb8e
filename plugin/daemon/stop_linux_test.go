package daemon

import (
	"context"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend"
)

// slow deletes no layer before it is let go.
type slow struct {
	backend.Backend
	begun, let chan struct{}
}

func (s *slow) Remove(ctx context.Context, l backend.Layer) error {
	close(s.begun)
	<-s.let
	return s.Backend.Remove(ctx, l)
}

// TestStopBesideADeletion holds that a process which ends while a layer is being deleted has ended well.
func TestStopBesideADeletion(t *testing.T) {
	needRoot(t)
	s := &slow{begun: make(chan struct{}), let: make(chan struct{})}
	backends := tested(t)
	open := backends[0].Open
	backends[0].Open = func(ctx context.Context, env backend.Env, c any) (b backend.Backend, err error) {
		s.Backend, err = open(ctx, env, c)
		return s, err
	}
	p := startWith(t, backends, filepath.Join(t.TempDir(), "strata"), nil, []string{"backend=vfs", "log-level=error"})
	assert.NilError(t, p.init())
	for _, method := range []string{"Create", "Remove"} {
		_, err := p.docker("GraphDriver."+method, map[string]any{"ID": "l"})
		assert.NilError(t, err)
	}
	<-s.begun
	assert.NilError(t, p.stop())
	close(s.let)
}
