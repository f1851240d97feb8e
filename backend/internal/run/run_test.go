package run_test

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend/internal/run"
)

func TestOutput(t *testing.T) {
	t.Setenv("LC_ALL", "tlh_KX")
	out, err := run.Output(t.Context(), strings.NewReader("in"), "sh", "-c", "cat; echo $LC_ALL; echo noise >&2")
	assert.NilError(t, err)
	assert.Equal(t, string(out), "inC\n")
}

func TestError(t *testing.T) {
	_, err := run.Output(t.Context(), nil, "sh", "-c", "echo 'dataset is busy' >&2; exit 3")
	assert.Error(t, err, "sh -c echo 'dataset is busy' >&2; exit 3: dataset is busy")
	assert.Assert(t, run.Said(err, "no", "is busy"))
	assert.Assert(t, !run.Said(err, "no"))
	assert.Assert(t, !run.Said(errors.New("is busy"), "is busy"))
	var exit *exec.ExitError
	assert.Assert(t, errors.As(err, &exit) && exit.ExitCode() == 3)
	_, err = run.Output(t.Context(), nil, "false")
	assert.Error(t, err, "false: exit status 1")
}

func TestMissing(t *testing.T) {
	_, err := run.Output(t.Context(), nil, "no-such-program")
	assert.ErrorContains(t, err, "no-such-program is not installed")
	assert.Assert(t, errdefs.IsFailedPrecondition(err))
}

// TestCancel ends a program that does not want to.
func TestCancel(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := run.Output(ctx, nil, "sleep", "60")
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Assert(t, time.Since(start) < 10*time.Second)
}
