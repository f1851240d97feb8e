package cli

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func (s *session) diff() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "diff NAME [PARENT]",
		Short: "Write the difference between a layer and its parent as a layer tar",
		Long: "Write the difference between a layer and its parent as an uncompressed layer tar, as docker save has it.\n\n" +
			`PARENT may be any other layer; "" is the empty tree.` + "\n\n" + outputHelp,
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

// outputHelp says what becomes of the file that outputFlag names.
const outputHelp = `The file of --output appears, or is replaced, when all is written; until then, and after a failure, what was there stays. But
what is more than a plain file is written into, as a shell does, and a failure leaves a part: a device, a fifo, a descriptor
(/dev/fd/N), a file that something is mounted on, and one with several links, extended attributes or an ACL.`

func outputFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "output", "o", standardOutput, "write to this file; - is standard output")
}

// written is what diff and export print with --json.
type written struct {
	File   string `json:"file"`
	Bytes  int64  `json:"bytes"`
	Digest string `json:"digest"` // sha256:... of the tar
}

// writeTar writes a diff to a file or to standard output.
func (s *session) writeTar(ctx context.Context, t *target, name, parent, file string) error {
	if file == "" { // a variable that is not set
		return usageError{errors.New("--output names no file; - is standard output")}
	}
	if s.isStdout(file) {
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
	err := writeFile(ctx, file, func(w io.Writer) error {
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
