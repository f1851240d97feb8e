// Package failpoint names the places where a crash or an error is most likely to hurt. A test
// arms a name; everywhere else [Hit] is one atomic load.
//
// A name is "package.operation.moment", such as "store.create.intent-written". Arm a process
// from outside with STRATA_FAILPOINT=NAME=kill (or =error), and list what a run passes with
// STRATA_FAILPOINT_TRACE=FILE.
package failpoint

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
)

// ErrInjected is what an armed failpoint of the kind "error" returns.
var ErrInjected = errors.New("injected by a failpoint")

var (
	armed atomic.Pointer[map[string]func() error] // nil when nothing is armed
	mu    sync.Mutex                              // serialises Arm and its undo
)

// Hit returns nil, or what the failpoint was armed with. A failpoint of the kind "kill" does not
// return: the process dies as by kill -9.
func Hit(name string) error {
	m := armed.Load()
	if m == nil {
		return nil
	}
	if f, ok := (*m)["*"]; ok {
		trace(name, f)
	}
	if f, ok := (*m)[name]; ok {
		return f()
	}
	return nil
}

// Arm makes Hit(name) call f until the returned function is called.
func Arm(name string, f func() error) (disarm func()) {
	mu.Lock()
	defer mu.Unlock()
	replace(name, f)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		replace(name, nil)
	}
}

// ArmFromEnvironment arms what STRATA_FAILPOINT and STRATA_FAILPOINT_TRACE ask for. Only test
// programs call it.
func ArmFromEnvironment() error {
	if file := os.Getenv("STRATA_FAILPOINT_TRACE"); file != "" {
		traceFile.Store(&file)
		Arm("*", func() error { return nil })
	}
	spec := os.Getenv("STRATA_FAILPOINT")
	if spec == "" {
		return nil
	}
	name, kind, _ := strings.Cut(spec, "=")
	switch kind {
	case "kill":
		Arm(name, Kill)
	case "error":
		Arm(name, func() error { return fmt.Errorf("%s: %w", name, ErrInjected) })
	default:
		return fmt.Errorf("STRATA_FAILPOINT=%q: want NAME=kill or NAME=error", spec)
	}
	return nil
}

// Kill ends the process at once, without any clean-up.
func Kill() error {
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	if err := self.Kill(); err != nil {
		return err
	}
	select {} // the signal is on its way
}

var traceFile atomic.Pointer[string]

func trace(name string, _ func() error) {
	file := traceFile.Load()
	if file == nil {
		return
	}
	f, err := os.OpenFile(*file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if _, err := f.WriteString(name + "\n"); err != nil {
		panic(err)
	}
}

func replace(name string, f func() error) {
	next := map[string]func() error{}
	if old := armed.Load(); old != nil {
		for k, v := range *old {
			next[k] = v
		}
	}
	if f == nil {
		delete(next, name)
	} else {
		next[name] = f
	}
	if len(next) == 0 {
		armed.Store(nil)
		return
	}
	armed.Store(&next)
}
