package daemon

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"strata/plugin/config"
	"strata/plugin/control"
)

// envLogged makes the test binary serve at this socket and log to its standard output and standard error.
const envLogged = "STRATA_TEST_LOGGED"

// TestLogWithoutReader: whoever reads the log, journald or dockerd, may end and be started anew. Strata goes on.
func TestLogWithoutReader(t *testing.T) {
	if socket := os.Getenv(envLogged); socket != "" {
		serveLogging(t, socket)
		return
	}
	socket := filepath.Join(t.TempDir(), "strata.sock")
	r, w, err := os.Pipe()
	assert.NilError(t, err)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLogWithoutReader$")
	cmd.Env = append(os.Environ(), envLogged+"="+socket)
	cmd.Stdout, cmd.Stderr = w, w
	assert.NilError(t, cmd.Start())
	assert.NilError(t, w.Close())
	p := &process{t: t, socket: socket, client: control.Dial(socket)}
	defer p.client.Close()
	deadline := time.Now().Add(10 * time.Second)
	for _, err := p.client.Version(t.Context()); err != nil; _, err = p.client.Version(t.Context()) {
		assert.Assert(t, time.Now().Before(deadline), "%v", err)
		time.Sleep(10 * time.Millisecond)
	}
	assert.NilError(t, r.Close())
	for range 3 { // each is a line of the log
		_, err := p.docker("GraphDriver.Get", map[string]string{"ID": "nothing"})
		assert.Assert(t, err != nil)
		_, err = p.client.Version(t.Context())
		assert.NilError(t, err)
	}
	assert.NilError(t, cmd.Process.Signal(syscall.SIGTERM))
	_ = cmd.Wait() // the last words of the test in it have no reader either
}

func serveLogging(t *testing.T, socket string) {
	t.Helper()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	flags, err := config.FromFlags([]string{"root=" + filepath.Join(filepath.Dir(socket), "root")})
	assert.NilError(t, err)
	c := Config{Socket: socket, Backends: tested(t), Flags: flags, Log: os.Stdout, Errors: os.Stderr}
	assert.NilError(t, Run(ctx, c))
}
