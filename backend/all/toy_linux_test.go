package all_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// TestToy adds a backend to a copy of this source by what CONTRIBUTING.md says: its folder, its page, one
// line, and what is generated. Then it runs what holds a backend: the suite, containerd's suite, the rules
// and the tests of the documents.
func TestToy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the suites mount file systems")
	}
	tree := t.TempDir()
	assert.NilError(t, copySource(tree))
	assert.NilError(t, os.CopyFS(filepath.Join(tree, "backend/toy"), os.DirFS("testdata/toy")))
	assert.NilError(t, os.Rename(filepath.Join(tree, "backend/toy/toy.md"), filepath.Join(tree, "docs/backends/toy.md")))
	list := filepath.Join(tree, "backend/all/all.go")
	text, err := os.ReadFile(list)
	assert.NilError(t, err)
	added := strings.NewReplacer(
		"\t\tvfs.Driver(),\n", "\t\tvfs.Driver(),\n\t\ttoy.Driver(),\n",
		"\t\"strata/backend/vfs\"\n", "\t\"strata/backend/toy\"\n\t\"strata/backend/vfs\"\n",
	).Replace(string(text))
	assert.Equal(t, strings.Count(added, "toy"), 2, "the list has changed its form")
	assert.NilError(t, os.WriteFile(list, []byte(added), 0o600))
	for _, tc := range []struct{ name, args string }{
		{"generate", "./backend/all -run ^TestReadme$ -update"},
		{"documents", "./backend/all -skip ^TestToy$"},
		{"rules", "./test/rules"},
		{"suite", "./backend/toy -short"},
		{"containerd", "./test/snapshots -run ^TestSuite$/^toy$"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "go", append([]string{"test", "-count=1", "-v"}, strings.Fields(tc.args)...)...)
			cmd.Dir = tree
			out, err := cmd.CombinedOutput()
			assert.NilError(t, err, "%s", out)
			assert.Assert(t, strings.Contains(string(out), "--- PASS: Test"), "nothing ran: %s", out)
		})
	}
}

// copySource copies the source without what git and the scripts keep beside it.
func copySource(to string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		name, rerr := filepath.Rel(root, path)
		switch {
		case err != nil || rerr != nil:
			return err
		case d.IsDir() && (name == ".git" || name == "build"):
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o700)
		case !d.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), text, info.Mode().Perm())
	})
}
