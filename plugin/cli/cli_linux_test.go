package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/rogpeppe/go-internal/testscript"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"

	"strata/backend"
	"strata/backend/store"
	"strata/plugin/cli"
	"strata/plugin/config"
	"strata/plugin/control"
	"strata/plugin/control/controltest"
)

type thickConfig struct {
	Workers int `option:"workers" help:"How many writers."`
}

// app is the program under test, with a backend that only has options.
func app() *cli.App {
	return &cli.App{
		Backends: []backend.Driver{{
			Name: "thick", Summary: "for tests", Config: func() any { return &thickConfig{Workers: 2} },
			Open: func(context.Context, backend.Env, any) (backend.Backend, error) {
				return nil, fmt.Errorf("thick stores nothing: %w", errdefs.ErrNotImplemented)
			},
		}, vfs()},
		Version: control.Version{Version: "9.8.7", Revision: "abcdef", Go: "go1.99"},
		Environ: os.Environ(),
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
	}
}

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"strata": func() {
			os.Exit(app().Run(context.Background(), os.Args[1:]))
		},
	})
}

// TestScripts runs testdata/*.txtar. Each has a plugin with a fake store on $SOCKET and these commands:
//
//	calls FILE          write the fake's record of calls that change something to a file
//	finding KIND        let check find something
//	fail METHOD         let a method of the store fail
//	code N COMMAND...   run a command, whose exit code must be N
//	mkstore DIR         make a store with one layer, called $A
func TestScripts(t *testing.T) {
	var fakes sync.Map // *controltest.Fake by $SOCKET; scripts run in parallel
	of := func(ts *testscript.TestScript) *controltest.Fake {
		f, _ := fakes.Load(ts.Getenv("SOCKET"))
		return f.(*controltest.Fake)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Condition: func(name string) (bool, error) {
			if name == "plugin" {
				found, err := filepath.Glob("/run/docker/plugins/*")
				return len(found) > 0, err
			}
			return name == "root" && os.Geteuid() == 0, nil
		},
		Setup: func(e *testscript.Env) error {
			socket := filepath.Join(e.WorkDir, "s.sock")
			f := controltest.New()
			fakes.Store(socket, f)
			e.Setenv("SOCKET", socket)
			e.Setenv("A", controltest.Hex('a'))
			e.Setenv("B", controltest.Hex('b'))
			e.Setenv("C", controltest.Hex('c'))
			stop, err := serve(socket, f)
			if err == nil {
				e.Defer(stop)
			}
			return err
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"calls": func(ts *testscript.TestScript, _ bool, args []string) {
				text := strings.Join(append(of(ts).Calls(), ""), "\n")
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
			},
			"finding": func(ts *testscript.TestScript, _ bool, args []string) {
				of(ts).Find(store.Finding{Kind: store.FindingKind(args[0]), Layer: controltest.Hex('b'), Detail: "odd"})
			},
			"fail": func(ts *testscript.TestScript, _ bool, args []string) {
				of(ts).Fail(args[0], fmt.Errorf("disk on fire: %w", errdefs.ErrDataLoss))
			},
			"code":    code,
			"mkstore": mkstore,
		},
	})
}

// code checks the exit code of a command: code 3 strata check.
func code(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if exit, ok := err.(interface{ ExitCode() int }); ok {
		got = strconv.Itoa(exit.ExitCode())
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != args[0] {
		ts.Fatalf("%v: exit code %s, want %s", args[1:], got, args[0])
	}
}

// serve answers on the socket until it is told to stop.
func serve(socket string, f *controltest.Fake) (stop func(), err error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "unix", socket)
	if err != nil {
		return nil, err
	}
	open := func(context.Context) (control.Store, error) { return f, nil }
	srv := httptest.NewUnstartedServer(control.New(control.Options{
		Store: open, Settings: &fakeSettings{}, Metrics: control.NewMetrics(control.Version{}, open), Version: control.Version{Version: "1.2.3"},
		Place: func(context.Context) control.Place {
			return control.Place{HostRoot: "/host/store", Warnings: []string{"beware"}}
		},
	}))
	srv.Listener = l
	srv.Start()
	return srv.Close, nil
}

// fakeSettings has one option, sync, which can be set to anything.
type fakeSettings struct{ sync string }

func (s *fakeSettings) Options(context.Context) ([]config.Setting, error) {
	return []config.Setting{
		{Option: config.Option{Key: "sync", Change: config.Live}, Value: "layer" + s.sync, Source: "environment"},
		{Option: config.Option{Key: "thick.workers", Change: config.Restart}, Value: "2", Source: "default", Next: &config.Next{Value: "3", Source: "config file"}},
	}, nil
}

func (s *fakeSettings) SetOptions(_ context.Context, values map[string]string) ([]config.Outcome, error) {
	var changes []config.Outcome
	for key, value := range values {
		if key != "sync" && key != "thick.workers" {
			return nil, fmt.Errorf("option %q is unknown; the known ones are sync: %w", key, errdefs.ErrInvalidArgument)
		}
		c := config.Outcome{Key: key, Value: value, Live: key == "sync"}
		if !c.Live {
			c.Restart = config.RestartService
		}
		switch value {
		case "":
			c.Value, c.Unset, c.Restart = "2", "environment", config.RestartDocker
		case "9":
			c.Winner = "--storage-opt has " + key + "=8"
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// TestHelp keeps what each command says about itself.
func TestHelp(t *testing.T) {
	for _, command := range []string{
		"", "serve", "info", "ls", "tree", "usage", "options", "check", "gc", "adopt", "handover", "diff", "changes", "export", "version",
	} {
		t.Run("strata "+command, func(t *testing.T) {
			a := app()
			var out, errs bytes.Buffer
			a.Stdout, a.Stderr = &out, &errs
			args := append(strings.Fields(command), "--help")
			assert.Equal(t, a.Run(t.Context(), args), 0, errs.String())
			golden.Assert(t, out.String(), filepath.Join("golden", strings.TrimSuffix("help-"+command, "-")+".txt"))
		})
	}
}

func TestEveryExitCodeIsInTheHelp(t *testing.T) {
	a := app()
	var out bytes.Buffer
	a.Stdout = &out
	assert.Equal(t, a.Run(t.Context(), nil), 0)
	for i, c := range cli.ExitCodes() {
		assert.Equal(t, c.Code, i)
		assert.Assert(t, strings.Contains(out.String(), c.Meaning), "%s is missing in:\n%s", c.Meaning, out.String())
	}
}

// TestPermissionDenied is not taken for a plugin that is not there.
func TestPermissionDenied(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	socket := filepath.Join(t.TempDir(), "s.sock")
	stop, err := serve(socket, controltest.New())
	assert.NilError(t, err)
	t.Cleanup(stop)
	assert.NilError(t, os.Chmod(socket, 0o600))
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "--socket", socket, "ls") // its directory is root's alone
	cmd.Args[0] = "strata"                                                              // which the test program then is
	const nobody = 65534
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	assert.ErrorContains(t, err, "exit status 1")
	assert.Assert(t, strings.Contains(string(out), "permission denied, which only root has"), "%s", out)
}
