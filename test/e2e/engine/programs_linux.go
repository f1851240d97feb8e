package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Programs are daemons that no Debian suite has, or not for long, made from Go modules.
type Programs struct {
	Name   string // in the cache, with the versions
	API    string // of Docker's that its dockerd speaks, "" if there is none: how a dockerd that was made so calls itself says nothing
	builds []build
}

// build is one call of go install, or of go build in a module that requires another.
type build struct {
	cgo      bool
	packages []string // PATH@VERSION
	// module is MODULE@VERSION. Docker's has no go.mod: what it needs is in its vendor.mod.
	module string
	tests  string // a module that only the other's tests need, and nobody serves
	// staging is the version under which the modules are served that module has below ./staging/src.
	staging string
}

// Docker27 is a Docker engine of the last version that takes graph driver plugins. It runs on Debian's containerd.
func Docker27() Programs {
	return Programs{"docker-27.5.1", "1.47", []build{docker("v27.5.1")}}
}

// Docker28 is a Docker engine of version 28, the first without graph driver plugins, with a containerd and a runc for it: the
// versions that Debian's testing had in November 2026. The module proxy has them for longer than that.
func Docker28() Programs {
	return Programs{"docker-28.5.2+containerd-2.1.9+runc-1.3.6", "1.51", []build{
		containerd("v2.1.9"), docker("v28.5.2"), runc("v1.3.6"),
	}}
}

// Docker29 is a Docker engine of version 29, which takes any snapshotter as storage driver, with a containerd and a runc for it.
func Docker29() Programs {
	return Programs{"docker-2.0.0-beta.24+containerd-2.4.2+runc-1.5.2", "1.56", []build{
		containerd("v2.4.2"), {packages: []string{"github.com/moby/moby/v2/cmd/dockerd@v2.0.0-beta.24"}}, runc("v1.5.2"),
	}}
}

// docker makes a dockerd before it moved to github.com/moby/moby/v2.
func docker(version string) build {
	return build{module: "github.com/docker/docker@" + version + "+incompatible", packages: []string{"github.com/docker/docker/cmd/dockerd"}}
}

// containerd is made in a module of its own, for go install refuses a go.mod that excludes versions, as that of 2.1 does.
func containerd(version string) build {
	const module = "github.com/containerd/containerd/v2"
	return build{module: module + "@" + version, packages: []string{module + "/cmd/containerd", module + "/cmd/ctr", module + "/cmd/containerd-shim-runc-v2"}}
}

func runc(version string) build {
	return build{cgo: true, packages: []string{"github.com/opencontainers/runc@" + version}}
}

// Nerdctl is a docker for containerd.
func Nerdctl() Programs {
	return Programs{"nerdctl-2.1.2", "", []build{
		{
			module: "github.com/containerd/nerdctl/v2@v2.1.2", packages: []string{"github.com/containerd/nerdctl/v2/cmd/nerdctl"},
			tests: "github.com/containerd/nerdctl/mod/tigron",
		},
	}}
}

// Kubernetes is what a node with an API server of its own runs, but for a container runtime. Its etcd is called server, as the
// module is.
func Kubernetes() Programs {
	return Programs{"kubernetes-1.34.4+etcd-3.6.4", "", []build{
		{
			module: "k8s.io/kubernetes@v1.34.4", staging: "v0.34.4", packages: []string{
				"k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes/cmd/kubelet", "go.etcd.io/etcd/server/v3",
			},
		},
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
		args := append([]string{"install"}, b.packages...)
		env := append(os.Environ(), "GOBIN="+bin, "CGO_ENABLED=0")
		if b.cgo {
			env = append(env, "CGO_ENABLED=1")
		}
		if b.module != "" {
			env = append(env, "GOFLAGS=-mod=mod") // go.sum is not written yet
			if err := wrap(ctx, dir, b); err != nil {
				return err
			}
		}
		if _, err := goCommand(ctx, dir, env, args...); err != nil { // no go.mod is above it but that of wrap
			return err
		}
	}
	return nil
}

func goCommand(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = dir, env
	return Output(cmd)
}

// wrap makes dir a module that requires the other, and what is in its vendor.mod if there is one, or in its go.mod if that names
// modules of its own tree. It replaces that of an earlier build.
func wrap(ctx context.Context, dir string, b build) error {
	out, err := goCommand(ctx, dir, os.Environ(), "mod", "download", "-json", b.module)
	if err != nil {
		return err
	}
	var source struct{ Dir string }
	if err := json.Unmarshal([]byte(out), &source); err != nil {
		return fmt.Errorf("go mod download: %w", err)
	}
	path, version, _ := strings.Cut(b.module, "@")
	requires := "vendor.mod"
	if b.staging != "" {
		requires = "go.mod"
	}
	text, err := os.ReadFile(filepath.Join(source.Dir, requires))
	if errors.Is(err, fs.ErrNotExist) {
		text, err = []byte("\nmodule "+path+"\n\ngo 1.21\n"), nil // with a go of 1.17 or later, versions are those that the other was made with
	}
	if err != nil {
		return err
	}
	if b.staging != "" {
		text = regexp.MustCompile(`=> \./staging/src/(\S+)`).ReplaceAll(text, []byte("=> $1 "+b.staging))
	}
	wrapped := strings.Replace(string(text), "\nmodule "+path+"\n", "\nmodule wrapper\n", 1) + "\nrequire " + path + " " + version + "\n"
	if b.tests != "" {
		empty := filepath.Join(dir, "empty")
		wrapped += "replace " + b.tests + " => ./empty\n"
		if err := errors.Join(os.Mkdir(empty, 0o755), os.WriteFile(filepath.Join(empty, "go.mod"), []byte("module "+b.tests+"\n"), 0o600)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "go.mod"), []byte(wrapped), 0o600)
}
