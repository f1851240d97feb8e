// Package run runs helper programs, such as zfs(8), for backends.
//
// A program gets the C locale, so that its messages can be recognised, no terminal, and a limited time.
// What it says on standard error is in the error.
package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// Error is a program that ran and failed.
type Error struct {
	Args   []string // the program's name first
	Stderr string   // what it said, without white space at the end
	Err    error    // how it ended, an *exec.ExitError in most cases
}

// Error names the program with its arguments and gives its own words.
func (e *Error) Error() string {
	if e.Stderr == "" {
		return fmt.Sprintf("%s: %v", strings.Join(e.Args, " "), e.Err)
	}
	return fmt.Sprintf("%s: %s", strings.Join(e.Args, " "), e.Stderr)
}

// Unwrap returns how the program ended.
func (e *Error) Unwrap() error { return e.Err }

// Said reports whether err is an [Error] of a program that said one of the texts on standard error.
func Said(err error, texts ...string) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	for _, t := range texts {
		if strings.Contains(e.Stderr, t) {
			return true
		}
	}
	return false
}

const (
	// patience is how long a program may take. What hangs longer waits for a disk that does not answer.
	patience = 5 * time.Minute
	// grace is how long a program that was told to end may take to do so.
	grace = 5 * time.Second
)

// Output runs a program found in PATH and returns what it writes. stdin may be nil. When ctx ends, so does the
// program. ErrFailedPrecondition if there is no such program, ErrUnavailable if it took too long, else an
// *[Error].
func Output(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return nil, fmt.Errorf("%s is not installed: %w: %w", args[0], err, errdefs.ErrFailedPrecondition)
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(limited, path, args[1:]...) //nolint:gosec // backends make the arguments
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = grace
	err = cmd.Run()
	switch {
	case err == nil:
		return stdout.Bytes(), nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s: %w", strings.Join(args, " "), context.Cause(ctx))
	case limited.Err() != nil:
		return nil, fmt.Errorf("%s: no answer within %v: %w", strings.Join(args, " "), patience, errdefs.ErrUnavailable)
	}
	return nil, &Error{Args: args, Stderr: strings.TrimSpace(stderr.String()), Err: err}
}
