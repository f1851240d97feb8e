// Package cli is the strata command. Each command is one file.
//
// A command asks the plugin that is running, over the control API on its socket, or, with --root,
// looks at a store at rest itself. Both are the same interface (control.Store), so a command does
// not know which it is.
//
// Tables are for people and may change; --json is for programs and keeps its names. Nothing is
// asked: what deletes has --yes, what mends has --repair.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"strata/backend"
	"strata/plugin/config"
	"strata/plugin/control"
)

// App is the program: what it is made of and where it runs. It is not changed by Run.
type App struct {
	Backends []backend.Driver // the first is the default
	Version  control.Version
	Environ  []string // as of os.Environ
	Stdout   io.Writer
	Stderr   io.Writer
}

// ExitCode is one of the codes that the program ends with.
type ExitCode struct {
	Code    int
	Meaning string
}

// The codes of ExitCodes by name.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitFindings    = 3
	exitNotFound    = 4
	exitUnavailable = 5
)

// ExitCodes lists what the program's exit codes mean. They are part of the interface.
func ExitCodes() []ExitCode {
	return []ExitCode{
		{exitOK, "done, and nothing is wrong"},
		{exitFailure, "it went wrong for another reason than those below"},
		{exitUsage, "unknown command, flag or option, or a value that does not fit"},
		{exitFindings, "check found damage that is not repaired, gc orphans that are not removed, or handover images that it cannot hand over"},
		{exitNotFound, "there is no such layer or store"},
		{exitUnavailable, "no plugin answers, it has no store yet, or another process has the store open"},
	}
}

// errFindings ends a command that worked and found something.
var errFindings = errors.New("something was found")

// usageError is a mistake on the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Run executes one command line, without the program's name, and returns the exit code.
func (a *App) Run(ctx context.Context, args []string) int {
	root := a.root()                          //nolint:contextcheck // cobra hands ctx to the command that runs
	root.SetArgs(append([]string{}, args...)) // cobra takes nil for the arguments of the process
	cmd, err := root.ExecuteContextC(ctx)
	code := exitCode(err)
	if code == exitOK || errors.Is(err, errFindings) {
		return code
	}
	_, _ = io.WriteString(a.Stderr, complaint(cmd, err)) // there is nobody else to tell
	return code
}

// complaint is what a failed command prints: a line of JSON, with the error's class, after --json.
func complaint(cmd *cobra.Command, err error) string {
	wire := control.NewError(err)
	if asked, _ := cmd.Flags().GetBool("json"); asked { // every command has the flag
		if text, err := json.Marshal(wire); err == nil { // a struct of strings can be encoded
			return string(text) + "\n"
		}
	}
	text := fmt.Sprintf("strata: %s\n", harmlessLines(wire.Text))
	if errors.As(err, new(usageError)) {
		text += fmt.Sprintf("See '%s --help'.\n", cmd.CommandPath())
	}
	return text
}

func exitCode(err error) int {
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errFindings):
		return exitFindings
	case errors.As(err, new(usageError)), errdefs.IsInvalidArgument(err):
		return exitUsage
	case errdefs.IsNotFound(err):
		return exitNotFound
	case errdefs.IsUnavailable(err):
		return exitUnavailable
	}
	return exitFailure
}

// session is one command line on its way: the program and the flags that all commands share.
type session struct {
	*App
	table  *config.Table
	json   bool
	socket string
	rest   string   // directory of a store at rest
	pairs  []string // settings, KEY=VALUE
}

func (a *App) root() *cobra.Command {
	s := &session{App: a, table: config.NewTable(a.Backends...)}
	version := false
	root := &cobra.Command{
		Use:               "strata",
		Short:             "A storage driver for Docker that lives outside the daemon",
		Long:              longHelp(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if version {
				return s.printVersion()
			}
			return cmd.Help()
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if len(s.pairs) > 0 && s.rest == "" && cmd.Name() != "serve" {
				return usageError{errors.New("--option is for serve and, with --root, for a store at rest; a running plugin is changed by strata options KEY=VALUE")}
			}
			return nil
		},
	}
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.Flags().BoolVar(&version, "version", false, "the same as the command version")
	f := root.PersistentFlags()
	f.BoolVar(&s.json, "json", false, "print JSON; an error, too, to standard error, with its class")
	f.StringVar(&s.socket, "socket", "", "socket of the running plugin (default: the first that answers of "+strings.Join(socketPatterns(), ", ")+")")
	f.StringVar(&s.rest, "root", "", "directory of a store at rest, instead of a running plugin; for serve, the store's directory")
	f.StringArrayVar(&s.pairs, "option", nil, "a setting, KEY=VALUE, for serve and for a store at rest; may be repeated")
	root.AddCommand(
		s.serve(), s.info(), s.ls(), s.tree(), s.usage(), s.options(), s.check(), s.gc(), s.adopt(), s.handover(), s.diff(), s.changes(), s.export(), s.version(),
	)
	return root
}

func longHelp() string {
	var b strings.Builder
	b.WriteString("A storage driver for Docker that lives outside the daemon.\n\n")
	b.WriteString("A layer may be named by its name or its ID, or by any beginning of them that is not ambiguous.\n\n")
	b.WriteString("With --root, commands that read layers' content or change anything open the store as a plugin does,\n" +
		"so that no plugin may be running; the others only look at its records, which say neither what is mounted\n" +
		"nor which settings a running plugin has.\n\nExit codes:\n")
	for _, c := range ExitCodes() {
		fmt.Fprintf(&b, "  %d  %s\n", c.Code, c.Meaning)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// arguments refuses fewer arguments than the one, and more than the other.
func arguments(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		wants := cmd.Parent().CommandPath() + " " + cmd.Use
		switch {
		case len(args) > most && most == 0:
			return usageError{fmt.Errorf("%s takes no arguments, and got %q", cmd.CommandPath(), args[0])}
		case len(args) > most:
			return usageError{fmt.Errorf("%q is one argument too many for %s", args[most], wants)}
		case len(args) < least:
			return usageError{fmt.Errorf("an argument is missing: %s", wants)}
		}
		return nil
	}
}
