package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"

	"strata/backend"
)

type fakeConfig struct {
	MountOpt []string `option:"mountopt" help:"Further mount options."`
	Quota    bool     `option:"quota" help:"Whether to limit | count."`
	Workers  int      `option:"workers" help:"How many writers."`
}

// Check implements Checker.
func (c *fakeConfig) Check() error {
	if c.Workers < 0 {
		return fmt.Errorf("thick.workers %d: want at least 0: %w", c.Workers, errdefs.ErrInvalidArgument)
	}
	return nil
}

// table has two backends; that of the tests' default is called thick.
func table() *Table {
	return NewTable(
		backend.Driver{Name: "thick", Summary: "first", Config: func() any { return &fakeConfig{Workers: 2} }},
		backend.Driver{Name: "thin", Summary: "second", Config: func() any {
			return &struct {
				Level string `option:"level" values:"low,high" change:"live" help:"How much."`
			}{"low"}
		}},
	)
}

func source(name string, pairs ...string) Source {
	list, err := parsePairs(pairs, name)
	if err != nil {
		panic(err)
	}
	return Source{Name: name, Assignments: list}
}

func TestLaterSourcesWin(t *testing.T) {
	all := []Source{
		source(SourceEnv, "sync=none", "log-level=warn", "thick.workers=1", "root=/srv/x"),
		source(SourceFlags, "log-level=debug", "thick.workers=3"),
		source(SourceFile, "thick.workers=4", "thick.mountopt=a, b,,c"),
		source(SourceStorageOpt, "strata.thick.workers=5"),
	}
	want := []string{"2", "1", "3", "4", "5"}
	for n := range len(all) + 1 {
		s, err := table().Resolve(all[:n]...)
		assert.NilError(t, err)
		assert.Equal(t, fmt.Sprint(s.BackendConfig.(*fakeConfig).Workers), want[n])
	}
	s, err := table().Resolve(all...)
	assert.NilError(t, err)
	assert.DeepEqual(t, s.Core, Core{Backend: "thick", Root: "/srv/x", Sync: "none", ExactDiffs: "auto", LogLevel: "debug", Containerd: "/run/containerd/containerd.sock"})
	assert.DeepEqual(t, s.BackendConfig, &fakeConfig{MountOpt: []string{"a", "b", "c"}, Workers: 5})
	sources := map[string]string{}
	for _, row := range s.List() {
		sources[row.Key] = row.Value + " from " + row.Source
	}
	assert.DeepEqual(t, sources, map[string]string{
		"backend": "thick from default", "root": "/srv/x from environment", "sync": "none from environment",
		"exact-diffs": "auto from default", "stores": " from default", "log-level": "debug from flags",
		"snapshotter-socket": " from default", "containerd-socket": "/run/containerd/containerd.sock from default",
		"thick.mountopt": "a,b,c from config file", "thick.quota": "false from default", "thick.workers": "5 from --storage-opt",
	})
}

func TestOptionsOfTheChosenBackend(t *testing.T) {
	s, err := table().Resolve(source(SourceEnv, "backend=thin", "thin.level=high"))
	assert.NilError(t, err)
	assert.Equal(t, s.Backend, "thin")
	row := s.List()[len(s.List())-1]
	assert.Equal(t, row.Key+"="+row.Value, "thin.level=high")
}

func TestWrongOptionsAreErrors(t *testing.T) {
	for _, tc := range []struct {
		name string
		src  []Source
		want []string
	}{
		{"unknown", []Source{source(SourceFlags, "snyc=none")}, []string{`"snyc" is unknown`, "backend, root, sync, exact-diffs, stores, snapshotter-socket, containerd-socket, log-level, thick.mountopt", "thin.level"}},
		{"unknown of a backend", []Source{source(SourceFlags, "thick.nope=1")}, []string{`"thick.nope" is unknown`}},
		{"unknown backend", []Source{source(SourceEnv, "backend=zip")}, []string{`"zip"`, "thick, thin"}},
		{"bad value", []Source{source(SourceFile, "sync=sometimes")}, []string{"sync", "sometimes", "layer, none"}},
		{"bad number", []Source{source(SourceFile, "thick.workers=many")}, []string{"thick.workers", "many", "whole number"}},
		{"refused by the backend", []Source{source(SourceFile, "thick.workers=-1")}, []string{"thick.workers -1: want at least 0"}},
		{"bad boolean", []Source{source(SourceFile, "thick.quota=maybe")}, []string{"thick.quota", "maybe"}},
		{"twice", []Source{source(SourceStorageOpt, "sync=none", "strata.sync=layer")}, []string{"contradicts", `"none"`, `"layer"`}},
		{"other backend", []Source{source(SourceEnv, "thin.level=low")}, []string{"thin.level", "belongs to backend thin, and the backend in use is thick"}},
		{"root by storage-opt", []Source{source(SourceStorageOpt, "root=/x")}, []string{"root", "docker plugin set"}},
		{"root in the file", []Source{source(SourceFile, "root=/x")}, []string{"root", "docker plugin set"}},
		{"relative root", []Source{source(SourceEnv, "root=here")}, []string{`"here"`, "absolute"}},
		{"root is /", []Source{source(SourceEnv, "root=/")}, []string{"absolute"}},
		{"relative store", []Source{source(SourceEnv, "stores=/a,b")}, []string{`"b"`, "absolute"}},
		{"all of them", []Source{source(SourceEnv, "a=1", "sync=2")}, []string{`"a"`, "sync"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := table().Resolve(tc.src...)
			assert.Assert(t, errdefs.IsInvalidArgument(err), "%v", err)
			for _, want := range tc.want {
				assert.ErrorContains(t, err, want)
			}
		})
	}
}

// TestSize: dockerd's own drivers have a default size, Strata has not.
func TestSize(t *testing.T) {
	_, err := FromStorageOpts([]string{"sync=none", "size=5G"})
	assert.Assert(t, errdefs.IsInvalidArgument(err), "%v", err)
	assert.ErrorContains(t, err, "docker run --storage-opt size=5G")
}

func TestTheSameTwiceIsNoContradiction(t *testing.T) {
	_, err := table().Resolve(source(SourceStorageOpt, "sync=none", "strata.sync=none"))
	assert.NilError(t, err)
}

func TestExactDiffs(t *testing.T) {
	for value, want := range map[string][2]bool{"auto": {true, false}, "true": {true, true}, "false": {false, true}} {
		s, err := table().Resolve(source(SourceEnv, "exact-diffs="+value))
		assert.NilError(t, err)
		exact, explicit := s.ExactDiffsWanted()
		assert.DeepEqual(t, [2]bool{exact, explicit}, want)
	}
}

func TestFromEnv(t *testing.T) {
	src, err := table().FromEnv([]string{
		"PATH=/bin", "STRATA_SYNC=none", "STRATA_STORES=", "STRATA_OPTIONS= thick.workers=7  thick.mountopt=a,b ",
		"STRATA_DATA=/data", "STRATA_PROPAGATED_MOUNT=/propagated",
	})
	assert.NilError(t, err)
	assert.DeepEqual(t, src, Source{Name: SourceEnv, Assignments: []Assignment{
		{Key: "sync", Value: "none", Origin: "STRATA_SYNC"},
		{Key: "thick.workers", Value: "7", Origin: "STRATA_OPTIONS"},
		{Key: "thick.mountopt", Value: "a,b", Origin: "STRATA_OPTIONS"},
	}})
	_, err = table().FromEnv([]string{"STRATA_SNYC=none"})
	assert.ErrorContains(t, err, "STRATA_SNYC is unknown; the known ones are STRATA_BACKEND")
	_, err = table().FromEnv([]string{"STRATA_OPTIONS=sync"})
	assert.ErrorContains(t, err, "want KEY=VALUE")
	src, err = table().FromEnv([]string{"STRATA_SYNC=none", "STRATA_OPTIONS=sync=layer"})
	assert.NilError(t, err)
	_, err = table().Resolve(src)
	assert.ErrorContains(t, err, "STRATA_SYNC")
	assert.ErrorContains(t, err, "contradicts")
}

func TestFromFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	for _, tc := range []struct{ name, data, want string }{
		{"all kinds", `{"sync":"none","thick.quota":true,"thick.workers":12,"stores":["/a,b","/c"]}`, ""},
		{"empty", "\n", ""},
		{"empty object", "{}", ""},
		{"list for a scalar", `{"thick.workers":["1"]}`, "not a list"},
		{"no object", `["sync"]`, "one JSON object"},
		{"twice", `{"sync":"none","sync":"layer"}`, "contradicts"},
		{"nested", `{"thick":{"workers":1}}`, "want a string"},
		{"null", `{"sync":null}`, "want a string"},
		{"list of numbers", `{"stores":[1]}`, "only hold strings"},
		{"cut", `{"sync":"none"`, "does not end"},
		{"more", `{} {}`, "more after"},
		{"empty list", `{"stores":[]}`, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			assert.NilError(t, os.WriteFile(path, []byte(tc.data), 0o600))
			src, err := FromFile(path)
			if err == nil {
				_, err = table().Resolve(src)
			}
			if tc.want == "" {
				assert.NilError(t, err)
				return
			}
			assert.ErrorContains(t, err, tc.want)
			assert.ErrorContains(t, err, path)
			assert.Assert(t, errdefs.IsInvalidArgument(err), "%v", err)
		})
	}
	src, err := FromFile(filepath.Join(t.TempDir(), "none"))
	assert.NilError(t, err)
	assert.Equal(t, len(src.Assignments), 0)
	assert.NilError(t, os.WriteFile(path, bytes.Repeat([]byte(" "), maxFile+1), 0o600))
	_, err = FromFile(path)
	assert.ErrorContains(t, err, "larger than")
}

func TestWriteFileRoundTrip(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	list := table().Set(nil, Assignment{Key: "sync", Value: "none"})
	list = table().Set(list, Assignment{Key: "stores", Items: []string{"/a,b"}})
	list = table().Set(append(list, Assignment{Key: "strata.log-level", Value: "warn"}), Assignment{Key: "log-level", Value: "debug"})
	assert.NilError(t, WriteFile(path, list))
	src, err := FromFile(path)
	assert.NilError(t, err)
	s, err := table().Resolve(src)
	assert.NilError(t, err)
	assert.Equal(t, string(s.Sync)+s.LogLevel+s.Stores[0], "nonedebug/a,b")
	entries, err := os.ReadDir(dir)
	assert.NilError(t, err)
	assert.Equal(t, len(entries), 1, "a temporary file was left behind")
	assert.ErrorContains(t, WriteFile(filepath.Join(dir, "no", "dir"), list), "write config file")
}

func TestMarkdownGolden(t *testing.T) {
	var b strings.Builder
	assert.NilError(t, table().Markdown(&b))
	golden.Assert(t, b.String(), "options.md")
}

var printEnv = flag.Bool("print-env", false, "print the env list that config.json must have")

// TestPluginEnv holds the plugin's config.json to the tags.
func TestPluginEnv(t *testing.T) {
	want, err := json.MarshalIndent(PluginEnv(), "", "  ")
	assert.NilError(t, err)
	if *printEnv {
		fmt.Println(string(want))
	}
	data, err := os.ReadFile("../../config.json")
	if os.IsNotExist(err) {
		t.Skip("there is no config.json to compare with")
	}
	assert.NilError(t, err)
	var manifest struct{ Env []EnvVar }
	assert.NilError(t, json.Unmarshal(data, &manifest))
	assert.DeepEqual(t, manifest.Env, PluginEnv())
}

func TestEveryCoreSettingHasAVariable(t *testing.T) {
	for _, v := range PluginEnv() {
		assert.Assert(t, strings.HasPrefix(v.Name, "STRATA_") || v.Name == EnvMemory, "%+v", v)
		assert.Assert(t, v.Description != "")
	}
}

func TestBadTagsPanic(t *testing.T) {
	for name, ptr := range map[string]any{
		"no help": &struct {
			A string `option:"a"`
		}{},
		"unknown change": &struct {
			A string `option:"a" help:"x" change:"never"`
		}{},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() { assert.Assert(t, recover() != nil) }()
			describe("", ptr)
		})
	}
}

// TestWithLive: the tag alone says what changes at once, of a backend's options as of Core's.
func TestWithLive(t *testing.T) {
	resolve := func(pairs ...string) *Settings {
		s, err := table().Resolve(source(SourceFile, pairs...))
		assert.NilError(t, err)
		return s
	}
	was := resolve("backend=thin", "thin.level=low")
	is := was.WithLive(resolve("backend=thin", "thin.level=high", "sync=none", "log-level=debug", "stores=/x"))
	assert.Equal(t, string(is.Sync), "none")
	assert.Equal(t, is.LogLevel, "debug")
	assert.Equal(t, len(is.Stores), 0, "it waits for the next start")
	assert.Equal(t, fmt.Sprint(is.BackendConfig), "&{high}")
	assert.Equal(t, fmt.Sprint(was.BackendConfig), "&{low}")
	for _, row := range is.List() {
		assert.Equal(t, row.Source == SourceFile && row.Key != "backend", row.Change == Live, row.Key)
	}
	next := resolve("backend=thick", "sync=none", "thick.workers=5")
	assert.Equal(t, string(was.WithLive(next).Sync), "none")
	assert.Equal(t, fmt.Sprint(was.WithLive(next).BackendConfig), "&{low}", "another backend's options are not this one's")
}
