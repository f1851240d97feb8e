package main

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend/all"
	"strata/plugin/config"
)

// TestBinary builds the program as a release is built and looks at what comes out.
func TestBinary(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the program serves on Linux only")
	}
	binary := filepath.Join(t.TempDir(), "strata")
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-X main.version=1.2.3-test", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	assert.NilError(t, err, "%s", out)

	f, err := elf.Open(binary)
	assert.NilError(t, err)
	defer f.Close()
	for _, p := range f.Progs {
		assert.Assert(t, p.Type != elf.PT_INTERP, "the program is not static: it wants a dynamic loader")
	}

	out, err = exec.CommandContext(t.Context(), binary, "version").Output()
	assert.NilError(t, err)
	assert.Assert(t, strings.HasPrefix(string(out), "strata 1.2.3-test "), "%s", out)

	err = exec.CommandContext(t.Context(), binary, "nope").Run()
	var exit *exec.ExitError
	assert.Assert(t, errors.As(err, &exit), "%v", err)
	assert.Equal(t, exit.ExitCode(), 2)
}

// TestBackends holds what the documentation says of the program's backends.
func TestBackends(t *testing.T) {
	list := all.Backends()
	assert.Equal(t, list[0].Name, "overlay", "the default")
	for _, o := range config.NewTable(list...).Options() {
		assert.Assert(t, strings.HasSuffix(o.Help, "."), "option %s: help is not a sentence: %q", o.Key, o.Help)
		assert.Assert(t, o.Backend == "" || strings.HasPrefix(o.Key, o.Backend+"."), o.Key)
	}
}

// TestCapabilities: the service has what the plugin has, but for what Docker gives to each plugin and Strata does not use (SECURITY.md).
func TestCapabilities(t *testing.T) {
	text, err := os.ReadFile("config.json")
	assert.NilError(t, err)
	var plugin struct {
		Linux struct{ Capabilities []string }
	}
	assert.NilError(t, json.Unmarshal(text, &plugin))
	want := append(plugin.Linux.Capabilities, strings.Fields("CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_MKNOD CAP_SETFCAP CAP_SETGID CAP_SETUID")...)
	unit, err := os.ReadFile("scripts/strata.service")
	assert.NilError(t, err)
	_, list, found := strings.Cut(string(unit), "\nCapabilityBoundingSet=")
	assert.Assert(t, found)
	list, _, _ = strings.Cut(list, "\n")
	got := strings.Fields(list)
	slices.Sort(want)
	slices.Sort(got)
	assert.DeepEqual(t, got, want)
	security, err := os.ReadFile("SECURITY.md")
	assert.NilError(t, err)
	for _, capability := range want {
		assert.Assert(t, strings.Contains(string(security), "`"+capability+"`"), capability)
	}
}

func TestVersionIsNeverEmpty(t *testing.T) {
	v := thisVersion()
	assert.Assert(t, v.Version != "" && v.Go == runtime.Version(), "%+v", v)
}
