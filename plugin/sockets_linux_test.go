package plugin

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// envHanded names the paths to ask for, in the copy of the test that systemd is said to have started.
const envHanded = "STRATA_TEST_HANDED"

// TestHandedSockets plays systemd for a copy of itself.
func TestHandedSockets(t *testing.T) {
	if paths := os.Getenv(envHanded); paths != "" {
		askFor(t, strings.Split(paths, ":"))
		return
	}
	dir := t.TempDir()
	ours, theirs := filepath.Join(dir, "handed"), filepath.Join(dir, "own")
	l, err := net.Listen("unix", ours)
	assert.NilError(t, err)
	defer l.Close()
	handed, err := l.(*net.UnixListener).File()
	assert.NilError(t, err)
	defer handed.Close()
	notified, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	assert.NilError(t, err)
	defer notified.Close()

	run := func(paths ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run='^TestHandedSockets$' -test.v`, os.Args[0])
		cmd.Env = append(os.Environ(), "LISTEN_FDS=1", envHanded+"="+strings.Join(paths, ":"), "NOTIFY_SOCKET="+filepath.Join(dir, "notify"))
		cmd.ExtraFiles = []*os.File{handed}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run(ours, theirs)
	assert.NilError(t, err, out)
	_, err = os.Stat(ours)
	assert.NilError(t, err, "systemd's socket stays")
	_, err = os.Stat(theirs)
	assert.Assert(t, os.IsNotExist(err), "its own does not")
	for _, want := range []string{"READY=1", "STOPPING=1"} {
		b := make([]byte, 100)
		n, err := notified.Read(b)
		assert.NilError(t, err)
		assert.Equal(t, string(b[:n]), want)
	}
	out, err = run(theirs)
	assert.Assert(t, err != nil)
	assert.Assert(t, strings.Contains(out, "handed over "+ours+", which no option names"), out)
}

// askFor listens at each path as a program does that systemd started.
func askFor(t *testing.T, paths []string) {
	t.Helper()
	s, err := NewSockets()
	assert.NilError(t, err)
	for _, path := range paths {
		l, err := s.Listen(t.Context(), path)
		assert.NilError(t, err)
		assert.Equal(t, fmt.Sprint(l.Addr()), path)
		conn, err := new(net.Dialer).DialContext(context.WithoutCancel(t.Context()), "unix", path)
		assert.NilError(t, err)
		assert.NilError(t, conn.Close())
		assert.NilError(t, l.Close())
	}
	assert.NilError(t, s.Close())
	assert.NilError(t, Ready())
	assert.NilError(t, Stopping())
}
