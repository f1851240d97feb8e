//go:build !linux

package backendtest

import (
	"context"

	"github.com/containerd/errdefs"

	"strata/backend"
)

func asRoot(context.Context, string, *backend.IDMap, string, ...string) (string, error) {
	return "", errdefs.ErrNotImplemented
}
