package rules

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// checkPaths refuses paths that exist only on the machine the code was written on.
func checkPaths(f file) []string {
	private := regexp.MustCompile(`(^|[^\w./}>-])/wo` + `rk/`)
	var wrong []string
	for i, line := range strings.Split(f.text, "\n") {
		if private.MatchString(line) {
			wrong = append(wrong, fmt.Sprintf("line %d has a path of one machine: %s", i+1, strings.TrimSpace(line)))
		}
	}
	return wrong
}

// checkUnfinished refuses what was left for later.
func checkUnfinished(f file) []string {
	later := regexp.MustCompile(`(^|[^\w.])(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	var wrong []string
	for i, line := range strings.Split(f.text, "\n") {
		if later.MatchString(line) {
			wrong = append(wrong, fmt.Sprintf("line %d was left for later: %s", i+1, strings.TrimSpace(line)))
		}
	}
	return wrong
}

// isScript tells whether a file is run or sourced by a shell.
func isScript(f file) bool {
	inPlace := strings.HasPrefix(f.path, "scripts/") || strings.HasPrefix(f.path, ".ci/")
	return inPlace && (strings.HasPrefix(f.text, "#!/bin/") || strings.HasSuffix(f.path, ".sh"))
}

// checkScripts wants each script to say how it is used, to stop at the first error, and to be
// executable if it is meant to be run.
func checkScripts(f file) []string {
	if !isScript(f) {
		return nil
	}
	name := path.Base(f.path)
	if strings.HasSuffix(name, ".sh") {
		if !strings.Contains(f.text, "# "+name+" - ") || !strings.Contains(f.text, "Sourced") {
			return []string{"has no comment that says what it is and that it is sourced"}
		}
		return nil
	}
	var wrong []string
	if !strings.Contains(f.text, "\n# usage: "+f.path) {
		wrong = append(wrong, "has no comment with \"usage: "+f.path+"\"")
	}
	if !strings.Contains(f.text, "\nset -euo pipefail\n") {
		wrong = append(wrong, "does not set -euo pipefail")
	}
	if f.mode&0o111 == 0 {
		wrong = append(wrong, "is not executable")
	}
	return wrong
}

func textRules() []rule {
	script := "#!/bin/bash\n# x - does.\n#\n# usage: scripts/x\nset -euo pipefail\n"
	return []rule{
		{
			name: "no private paths", check: checkPaths,
			bad:  example{"README.md", "see /wo" + "rk/main\n"},
			good: example{"README.md", "see layers/ab/wo" + "rk/x and ${dir}/wo" + "rk/\n"},
		},
		{
			name: "nothing unfinished", check: checkUnfinished,
			bad:  example{"README.md", "TO" + "DO: all\n"},
			good: example{"README.md", "all done\n"},
		},
		{
			name: "scripts", check: checkScripts,
			bad:  example{"scripts/x", script},
			good: example{"scripts/x", script},
		},
	}
}

// TestPackageComments wants every package to say what it is for. A comment in a test counts only
// where there is nothing but tests.
func TestPackageComments(t *testing.T) {
	code, tests := map[string]string{}, map[string]string{}
	for _, f := range sourceTree(t) {
		switch dir := path.Dir(f.path); {
		case !f.isGo():
		case f.isTest():
			tests[dir] += f.code.Doc.Text()
		default:
			code[dir] += f.code.Doc.Text()
		}
	}
	for dir, comment := range tests {
		if _, ok := code[dir]; !ok {
			code[dir] = comment
		}
	}
	for dir, comment := range code {
		if wrong := commentFault(dir, comment); wrong != "" {
			t.Errorf("%s: %s", dir, wrong)
		}
	}
}

// commentFault says what is wrong with the comment of the package in dir, "" if nothing is.
func commentFault(dir, comment string) string {
	switch {
	case comment == "":
		return "has no package comment"
	case dir == ".":
		return ""
	case !strings.HasPrefix(comment, "Package ") && !strings.HasPrefix(comment, "Command "):
		return fmt.Sprintf("package comment does not begin with \"Package\": %.40q", comment)
	}
	return ""
}

// TestCommentFault proves that TestPackageComments can fail.
func TestCommentFault(t *testing.T) {
	for comment, bad := range map[string]bool{"": true, "Does things.": true, "Package x does.": false} {
		if got := commentFault("p", comment) != ""; got != bad {
			t.Errorf("comment %q: bad is %v, want %v", comment, got, bad)
		}
	}
}

// TestLicence holds LICENSE to the text it claims to be.
func TestLicence(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(top, "LICENSE"))
	assert.NilError(t, err)
	for _, want := range []string{"Apache License", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS"} {
		assert.Assert(t, bytes.Contains(text, []byte(want)), "LICENSE lacks %q", want)
	}
}
