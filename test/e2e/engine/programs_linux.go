package engine

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Programs are daemons that no Debian suite has, made from Go modules.
type Programs struct {
	Name   string // in the cache, with the versions
	builds []build
}

// build is one call of go install.
type build struct {
	cgo      bool
	packages []string // PATH@VERSION
}

// Docker29 is a Docker engine of version 29, which takes any snapshotter as storage driver, with a containerd and a runc for it.
func Docker29() Programs {
	containerd := func(name string) string { return "github.com/containerd/containerd/v2/cmd/" + name + "@v2.4.2" }
	return Programs{"docker-2.0.0-beta.24+containerd-2.4.2+runc-1.5.2", []build{
		{packages: []string{containerd("containerd"), containerd("ctr"), containerd("containerd-shim-runc-v2")}},
		{packages: []string{"github.com/moby/moby/v2/cmd/dockerd@v2.0.0-beta.24"}},
		{cgo: true, packages: []string{"github.com/opencontainers/runc@v1.5.2"}},
	}}
}

// Usr returns a directory to be laid over /usr. Making it takes some ten minutes, once.
func (p Programs) Usr(ctx context.Context, c *Cache) (string, error) {
	dir, err := c.Entry(ctx, p.Name, p.install)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "usr"), nil
}

// install makes the programs in dir/usr/sbin, which comes first in PATH.
func (p Programs) install(ctx context.Context, dir string) error {
	bin := filepath.Join(dir, "usr", "sbin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	for _, b := range p.builds {
		cmd := exec.CommandContext(ctx, "go", append([]string{"install"}, b.packages...)...)
		cmd.Dir = dir // no go.mod is above it
		cgo := "0"
		if b.cgo {
			cgo = "1"
		}
		cmd.Env = append(os.Environ(), "GOBIN="+bin, "CGO_ENABLED="+cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go install %v: %w: %s", b.packages, err, out)
		}
	}
	return nil
}
