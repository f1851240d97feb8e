package graphdriver

import (
	"context"
	"io"
	"iter"

	"strata/backend"
	"strata/backend/store"
	"strata/plugin/keeper"
)

// Layers is what a Handler wants of a *store.Store.
type Layers interface {
	lifecycle
	content
	reports
}

type lifecycle interface {
	Create(ctx context.Context, name, parent string, o store.CreateOptions) error
	Discard(ctx context.Context, name string) error
	Mount(ctx context.Context, name string, o store.MountOptions) (string, error)
	Unmount(ctx context.Context, name string) error
	UnmountAll(ctx context.Context) error
}

type content interface {
	Apply(ctx context.Context, name string, r io.Reader) (int64, error)
	Diff(ctx context.Context, name, parent string, w io.Writer) error
	Changes(ctx context.Context, name, parent string) iter.Seq2[backend.Change, error]
	DiffSize(ctx context.Context, name, parent string) (int64, error)
}

type reports interface {
	Stat(ctx context.Context, name string) (store.Info, error)
	Describe(ctx context.Context, name string) ([]backend.Field, error)
	Info(ctx context.Context) (store.StoreInfo, error)
}

var _ Layers = (*store.Store)(nil)

// attachment is a keeper.Session of any store.
type attachment struct {
	Layers
	init keeper.Init
	info store.StoreInfo // as it was when the store was opened: for what does not change
}

// owner is what the handler wants of a *keeper.Keeper, whatever its store is.
type owner struct {
	begun   func() bool // there was an Init
	init    func(ctx context.Context, i keeper.Init) error
	session func(ctx context.Context) (*attachment, error)
	current func() *attachment // nil if no store is open
}

// owned narrows a keeper to an owner.
func owned[S Store](k *keeper.Keeper[S]) owner {
	narrow := func(s *keeper.Session[S]) *attachment {
		if s == nil {
			return nil
		}
		return &attachment{Layers: s.Store, init: s.Init, info: s.Info}
	}
	return owner{
		begun: k.Begun,
		init:  k.Init,
		session: func(ctx context.Context) (*attachment, error) {
			s, err := k.Session(ctx)
			return narrow(s), err
		},
		current: func() *attachment { return narrow(k.Current()) },
	}
}

// init is GraphDriver.Init. It is what attaches a store, not what makes one.
func (h *Handler) init(ctx context.Context, next keeper.Init) (reply, error) {
	return reply{}, h.keeper.init(ctx, next)
}
