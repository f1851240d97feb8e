package cli

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

func (s *session) diff() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "diff NAME [PARENT]",
		Short: "Write the difference between a layer and its parent as a layer tar",
		Long: "Write the difference between a layer and its parent as an uncompressed layer tar, as docker save has it.\n\n" +
			`PARENT may be any other layer; "" is the empty tree.`,
		Args: arguments(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.with(cmd.Context(), true, func(t *target) error {
				name, parent, err := t.pair(cmd.Context(), args)
				if err != nil {
					return err
				}
				return s.writeTar(cmd.Context(), t, name, parent, file)
			})
		},
	}
	outputFlag(cmd, &file)
	return cmd
}

func outputFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "output", "o", "", "write to this file, not to standard output")
}

// written is what diff and export print with --json.
type written struct {
	File   string `json:"file"`
	Bytes  int64  `json:"bytes"`
	Digest string `json:"digest"` // sha256:... of the tar
}

// writeTar writes a diff to a file, which appears only when it is complete, or to standard output.
func (s *session) writeTar(ctx context.Context, t *target, name, parent, file string) error {
	if file == "" {
		if s.json {
			return usageError{errors.New("--json describes a file that was written: name it with --output")}
		}
		if isTerminal(s.Stdout) {
			return usageError{errors.New("a tar is not for a terminal: name a file with --output")}
		}
		return t.Diff(ctx, name, parent, s.Stdout)
	}
	result := written{File: file}
	digest := sha256.New()
	p := s.progress()
	defer p.done()
	err := writeFile(file, func(w io.Writer) error {
		count := writerFunc(func(b []byte) (int, error) {
			result.Bytes += int64(len(b))
			p.show("%s written", size(result.Bytes))
			return len(b), nil
		})
		return t.Diff(ctx, name, parent, io.MultiWriter(w, digest, count))
	})
	if err != nil {
		return err
	}
	p.done()
	result.Digest = fmt.Sprintf("sha256:%x", digest.Sum(nil))
	return s.print(result, func(w io.Writer) { row(w, result.File, size(result.Bytes), result.Digest) })
}

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// writeFile writes beside file and renames over it, so that a failure leaves what was there.
func writeFile(file string, write func(w io.Writer) error) (err error) {
	const buffer = 256 << 10 // bytes
	part := file + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(part))
		}
	}()
	b := bufio.NewWriterSize(f, buffer)
	err = write(b)
	if err == nil {
		err = b.Flush()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(part, file)
}
