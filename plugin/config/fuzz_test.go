package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzOptions feeds one text to every source. Whatever it is, nothing may panic, and settings that
// are accepted must hold only allowed values and survive being written to a config file.
func FuzzOptions(f *testing.F) {
	for _, seed := range []string{
		"sync=none", "strata.sync=layer", "strata.strata.sync=layer", "=", "a=b=c", "thick.workers=-1",
		"thick.workers=99999999999999999999", "thick.mountopt=a,,b, ,c", "stores=/a,/b", "root=/../x",
		`{"sync":"none","stores":["/a,b"],"thick.quota":true}`, `{"a":{"b":[1]}}`, `{"sync":"\ud800"}`, "\x00=\xff",
		"sync=none sync=layer", "log-level=info backend=thin thin.level=high",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		table := table()
		path := filepath.Join(t.TempDir(), FileName)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		file, errFile := FromFile(path)
		opts, errOpts := FromStorageOpts(strings.Fields(text))
		env, errEnv := table.FromEnv([]string{EnvOptions + "=" + text})
		for _, c := range []struct {
			src Source
			err error
		}{{file, errFile}, {opts, errOpts}, {env, errEnv}} {
			if c.err != nil {
				continue
			}
			s, err := table.Resolve(c.src)
			if err != nil {
				continue
			}
			if s.Sync != "layer" && s.Sync != "none" {
				t.Errorf("%q: accepted sync=%q", text, s.Sync)
			}
			rewrite(t, table, path, c.src, s)
		}
	})
}

// rewrite writes what was accepted to a config file, reads it back and compares.
func rewrite(t *testing.T, table *Table, path string, src Source, s *Settings) {
	var list []Assignment
	for _, a := range src.Assignments {
		o, err := table.Lookup(a.Key)
		if err != nil {
			t.Fatal(err)
		}
		if a.Key = o.Key; o.Change != Place {
			list = table.Set(list, a)
		}
	}
	if err := WriteFile(path, list); err != nil {
		t.Fatal(err)
	}
	back, err := FromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := table.Resolve(back)
	if err != nil {
		t.Fatalf("what was accepted is refused when read back: %v", err)
	}
	for i, row := range again.List() {
		if was := s.List()[i]; row.Change != Place && row.Value != strings.ToValidUTF8(was.Value, "\ufffd") {
			t.Errorf("%s: %q became %q", row.Key, was.Value, row.Value)
		}
	}
}
