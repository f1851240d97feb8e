package backend

import "context"

// Driver is a kind of backend, with what is needed to configure and open one.
type Driver struct {
	Name    string // as the user writes it; also the prefix of its options
	Summary string // one line
	// Config returns a pointer to a new struct with the defaults, whose option and help tags
	// package plugin/config reads. It may have a method Check() error, which refuses values before
	// they are recorded.
	Config func() any
	// Open makes the backend. config is what Config returned, with the user's options applied;
	// ErrInvalidArgument for anything else.
	Open func(ctx context.Context, env Env, config any) (Backend, error)
}
