package backend

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// Driver is a kind of backend: what is needed to configure and open one, and what its documents, its
// tests and the plugin's container have to know about it.
type Driver struct {
	Name    string // as the user writes it; also the prefix of its options
	Summary string // one line
	Needs   string // what the host must have, one line
	// Devices are the devices that the backend opens, such as /dev/zfs. The plugin's config.json has
	// an entry for each, by the last part of its name.
	Devices []string
	// Grounds are what the backend is tested on, the usual one first.
	Grounds []Ground
	// Like is the snapshotter of containerd that keeps layers in the same way, "native" if none does:
	// containerd's suite asks of Strata what that one can do.
	Like string
	// Config returns a pointer to a new struct with the defaults, whose option and help tags
	// package plugin/config reads. It may have a method Check() error, which refuses values before
	// they are recorded.
	Config func() any
	// Open makes the backend. config is what Config returned, with the user's options applied;
	// ErrInvalidArgument for anything else.
	Open func(ctx context.Context, env Env, config any) (Backend, error)
}

// Ground is a file system below a store.
type Ground struct {
	FS           string // kind of file system, as mount -t has it
	MountOptions string // as for mount -o
	Limits       bool   // a size limit is kept (Limiter)
	Enable       string // command that turns limits on; the file system's directory is its last argument
	Kernel       string // option of the kernel's build that the mount options need, such as CONFIG_QFMT_V2
}

// With returns d with a configuration of type C, of which defaults makes a new one.
func With[C any](d Driver, defaults func() *C, open func(context.Context, Env, *C) (Backend, error)) Driver {
	d.Config = func() any { return defaults() }
	d.Open = func(ctx context.Context, env Env, config any) (Backend, error) {
		c, ok := config.(*C)
		if !ok {
			return nil, fmt.Errorf("open backend %s: its options are a %T: %w", d.Name, config, errdefs.ErrInvalidArgument)
		}
		return open(ctx, env, c)
	}
	return d
}
