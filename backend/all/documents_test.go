package all_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"

	"strata/backend"
	"strata/backend/all"
)

// root is where README.md and config.json are.
const root = "../.."

// TestReadme holds the README's table of backends to the drivers.
func TestReadme(t *testing.T) {
	const begin, end = "<!-- backends -->\n", "<!-- /backends -->\n"
	file := filepath.Join(root, "README.md")
	text, err := os.ReadFile(file)
	assert.NilError(t, err)
	before, rest, ok := strings.Cut(string(text), begin)
	assert.Assert(t, ok, "README.md has no %s", begin)
	_, after, ok := strings.Cut(rest, end)
	assert.Assert(t, ok, "README.md has no %s", end)
	want := before + begin + table(all.Backends()) + end + after
	if golden.FlagUpdate() {
		assert.NilError(t, os.WriteFile(file, []byte(want), 0o644))
		return
	}
	assert.Equal(t, string(text), want, "run scripts/generate")
}

// table is the README's table of backends.
func table(drivers []backend.Driver) string {
	var b strings.Builder
	b.WriteString("| backend | needs | a layer is kept as |\n|---|---|---|\n")
	for i, d := range drivers {
		name := fmt.Sprintf("[%s](docs/backends/%s.md)", d.Name, d.Name)
		if i == 0 {
			name += " (default)"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, d.Needs, d.Summary)
	}
	return b.String()
}

// TestPages: each backend has a page, and all pages have the same headings.
func TestPages(t *testing.T) {
	pages, err := os.ReadDir(filepath.Join(root, "docs/backends"))
	assert.NilError(t, err)
	assert.Equal(t, len(pages), len(all.Backends()), "pages and backends")
	for _, d := range all.Backends() {
		text, err := os.ReadFile(filepath.Join(root, "docs/backends", d.Name+".md"))
		assert.NilError(t, err)
		var headings []string
		for line := range strings.Lines(string(text)) {
			if heading, ok := strings.CutPrefix(line, "## "); ok {
				headings = append(headings, strings.TrimSpace(heading))
			}
		}
		assert.DeepEqual(t, headings, []string{"Set-up", "On disk", "What changed", "Sizes and limits", "Costs", "Trouble", "Moving in and out"})
	}
}

// TestDevices: the plugin's container has an entry for each device that a backend opens, and for no other.
func TestDevices(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "config.json"))
	assert.NilError(t, err)
	var config struct {
		Linux struct {
			Devices []struct{ Name string }
		}
	}
	assert.NilError(t, json.Unmarshal(text, &config))
	var have, want []string
	for _, d := range config.Linux.Devices {
		have = append(have, d.Name)
	}
	for _, d := range all.Backends() {
		for _, device := range d.Devices {
			want = append(want, path.Base(device))
		}
	}
	assert.DeepEqual(t, have, want)
}
