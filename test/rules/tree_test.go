package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// top is the root of the source tree, seen from this package.
const top = "../.."

// file is one file of the source tree.
type file struct {
	path string // relative to top, with slashes
	text string
	mode fs.FileMode
	set  *token.FileSet // set and code are nil unless this is a Go file
	code *ast.File
}

func (f file) isGo() bool { return strings.HasSuffix(f.path, ".go") }

func (f file) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

// lines counts the lines that a node covers.
func (f file) lines(n ast.Node) int {
	return f.set.Position(n.End()).Line - f.set.Position(n.Pos()).Line + 1
}

func newFile(t *testing.T, name, text string, mode fs.FileMode) file {
	t.Helper()
	f := file{path: name, text: text, mode: mode}
	if f.isGo() {
		f.set = token.NewFileSet()
		code, err := parser.ParseFile(f.set, name, text, parser.ParseComments)
		assert.NilError(t, err)
		f.code = code
	}
	return f
}

// sourceTree reads all files of the source but built ones, test data and licence texts.
func sourceTree(t *testing.T) []file {
	t.Helper()
	var files []file
	err := filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == ".git" || d.Name() == "testdata" || rel == "build" {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || !isSource(rel) {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files = append(files, newFile(t, filepath.ToSlash(rel), string(text), info.Mode()))
		return nil
	})
	assert.NilError(t, err)
	assert.Assert(t, len(files) > 20, "the source tree is not at %s", top)
	return files
}

// isSource tells source from what a build, a test run or a linked worktree of git leaves at the top.
func isSource(rel string) bool {
	ext := path.Ext(rel)
	return rel != ".git" && rel != "strata" && rel != "LICENSE" && ext != ".sum" && ext != ".test" && ext != ".out"
}
