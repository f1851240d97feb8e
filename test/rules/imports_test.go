package rules

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// module is the prefix of our own import paths.
const module = "strata/"

// direction says what the code below a directory may import of ours.
type direction struct {
	from    string   // directory, or anyBackend; what lies below is meant too, unless it has a line of its own
	allowed []string // directories, or anyBackend; NAME/... means those below as well
}

// anyBackend stands for each directory in backend that has no line of its own in the table.
const anyBackend = "backend/*"

// directions is the picture of CONTRIBUTING.md as a table: front ends translate, the store
// remembers, backends store. A backend imports neither the store nor a front end nor a sibling.
func directions() []direction {
	contract := []string{"backend", "backend/mounttable", "backend/regular", "backend/internal/..."}
	keeping := []string{"plugin", "backend", "backend/regular", "backend/store"}
	return []direction{
		{".", []string{"plugin/...", "backend", "backend/all", "backend/store"}},
		{"plugin", []string{"plugin/...", "backend", "backend/mounttable", "backend/regular", "backend/store"}},
		// Front ends know the store's owner and not each other; the owner knows none of them.
		{"plugin/keeper", append([]string{"plugin/config"}, keeping...)},
		{"plugin/graphdriver", []string{"plugin", "plugin/keeper", "backend", "backend/store"}},
		{"plugin/snapshotter", keeping},
		{"plugin/control", []string{"plugin", "plugin/config", "plugin/control", "backend", "backend/store"}},
		{"backend", nil},
		{anyBackend, contract},
		{"backend/mounttable", nil},
		{"backend/regular", nil},
		{"backend/all", []string{"backend", anyBackend}},
		{"backend/store", contract},
		{"backend/internal", contract},
		{"backend/backendtest", append([]string{"backend/store"}, contract...)},
		{"scripts", []string{"..."}},
		{"test", []string{"..."}},
	}
}

// within tells whether a directory matches a pattern of direction.allowed.
func within(dir, pattern string) bool {
	if pattern == "..." {
		return true
	}
	if pattern == anyBackend {
		return path.Dir(dir) == "backend" && lineOf(dir) < 0
	}
	if parent, ok := strings.CutSuffix(pattern, "/..."); ok {
		return dir == parent || strings.HasPrefix(dir, parent+"/")
	}
	return dir == pattern
}

// lineOf returns the index of the line of a directory's own, -1 if there is none.
func lineOf(dir string) int {
	return slices.IndexFunc(directions(), func(d direction) bool { return d.from == dir })
}

// directionOf finds the line for a directory: that of the nearest one above it that has one.
func directionOf(dir string) (direction, bool) {
	for ; ; dir = path.Dir(dir) {
		n := lineOf(dir)
		if n < 0 && path.Dir(dir) == "backend" {
			n = lineOf(anyBackend)
		}
		if n >= 0 {
			return directions()[n], true
		}
		if path.Dir(dir) == "." {
			return direction{}, false
		}
	}
}

func checkDirections(f file) []string {
	dir := path.Dir(f.path)
	if !f.isGo() || f.isTest() {
		return nil
	}
	d, ok := directionOf(dir)
	if !ok {
		return []string{fmt.Sprintf("directory %s has no line in the table of import directions", dir)}
	}
	var wrong []string
	for _, spec := range f.code.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return []string{err.Error()}
		}
		ours, ok := strings.CutPrefix(name, module)
		if !ok || within(ours, dir+"/...") || d.from == anyBackend && sameFolder(dir, ours) {
			continue
		}
		if !slices.ContainsFunc(d.allowed, func(p string) bool { return within(ours, p) }) {
			wrong = append(wrong, fmt.Sprintf("imports %s; %s may import only %v", name, d.from, d.allowed))
		}
	}
	return wrong
}

// sameFolder tells whether a package lies below the folder of the backend that a directory belongs to: the packages of a
// backend may import one another, but not the backend.
func sameFolder(dir, other string) bool {
	folder := strings.Join(strings.SplitN(dir, "/", 3)[:2], "/")
	return strings.HasPrefix(other, folder+"/")
}

// foreign are modules that only some rooms may use, by the reason.
func foreign() map[string][]string {
	return map[string][]string{
		"github.com/docker/":            {"plugin", "test", "."}, // storage knows nothing of Docker
		"github.com/spf13/cobra":        {"plugin/cli", "."},
		"github.com/prometheus/":        {"plugin", "."},
		"github.com/sirupsen/logrus":    {"plugin", "backend/backendtest", "."}, // others log through containerd/log, if at all
		"github.com/containerd/log":     {"plugin", "backend/store", "backend/backendtest", "test", "."},
		"github.com/rogpeppe/go-intern": {},
		// What makes file systems for tests is in no program.
		"strata/backend/internal/loopfs": {"backend/backendtest", "backend/internal/quota/quotatest"},
	}
}

func checkForeign(f file) []string {
	if !f.isGo() || f.isTest() {
		return nil
	}
	dir := path.Dir(f.path)
	var wrong []string
	for _, spec := range f.code.Imports {
		name := strings.Trim(spec.Path.Value, `"`)
		for prefix, rooms := range foreign() {
			allowed := slices.ContainsFunc(rooms, func(room string) bool {
				return dir == room || room != "." && within(dir, room+"/...")
			})
			if strings.HasPrefix(name, prefix) && !allowed {
				wrong = append(wrong, fmt.Sprintf("imports %s, which only %v may", name, rooms))
			}
		}
	}
	return wrong
}

func importRules() []rule {
	return []rule{
		{
			name: "import directions", check: checkDirections,
			bad:  example{"backend/toy/x.go", "package toy\nimport _ \"strata/backend/vfs\"\n"},
			good: example{"backend/toy/x.go", "package toy\nimport _ \"strata/backend/internal/mount\"\n"},
		},
		{
			name: "rooms of modules", check: checkForeign,
			bad:  example{"backend/vfs/x.go", "package vfs\nimport _ \"github.com/containerd/log\"\n"},
			good: example{"backend/store/x.go", "package store\nimport _ \"github.com/containerd/log\"\n"},
		},
	}
}
