package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// BuildPlugin builds Strata from the source tree at root with scripts/build, under the given
// version, and copies the plugin directory to dir, which must not exist. Two calls for the same
// tree must not overlap.
func BuildPlugin(ctx context.Context, root, version, dir string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(root, "scripts/build"))
	cmd.Env = append(os.Environ(), "VERSION="+version)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build plugin: %w: %s", err, out)
	}
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(root, "build/plugin"))); err != nil {
		return fmt.Errorf("copy plugin: %w", err)
	}
	return nil
}

// Registry is Debian's docker-registry on a port of its own of 127.0.0.1.
type Registry struct {
	Addr string // host:port
	dir  string
	cmd  *exec.Cmd
}

// StartRegistry starts an empty registry on the real host and waits until it answers.
func StartRegistry(ctx context.Context) (_ *Registry, err error) {
	dir, err := os.MkdirTemp("/var/tmp", "strata-e2e-registry-")
	if err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	r := &Registry{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start registry: %w", err), r.Close())
		}
	}()
	if r.Addr, err = freePort(ctx); err != nil {
		return nil, err
	}
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: %q}\n",
		filepath.Join(dir, "data"), r.Addr)
	path := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return nil, err
	}
	r.cmd = exec.CommandContext(context.WithoutCancel(ctx), "docker-registry", "serve", path)
	r.cmd.Stderr = os.Stderr
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	for range 100 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.Addr+"/v2/", nil)
		if err != nil {
			return nil, err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			return r, resp.Body.Close()
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, errors.New("no answer within ten seconds")
}

// Close ends the registry and deletes what it holds.
func (r *Registry) Close() error {
	var err error
	if r.cmd != nil && r.cmd.Process != nil {
		err = r.cmd.Process.Kill()
		_ = r.cmd.Wait() // it was killed
	}
	return errors.Join(err, os.RemoveAll(r.dir))
}

// freePort returns an address of 127.0.0.1 that nobody listened on a moment ago.
func freePort(ctx context.Context) (string, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
