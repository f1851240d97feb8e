package rules

import (
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// rule is something that every file must keep to.
type rule struct {
	name  string
	check func(file) []string // what is wrong, one line each
	bad   example             // breaks the rule
	good  example             // keeps it
}

// example is a file in the mind.
type example struct {
	path string
	text string
}

func allRules() []rule {
	return slices.Concat(importRules(), goRules(), kitRules(), textRules())
}

// TestRules holds every file of the source tree to every rule.
func TestRules(t *testing.T) {
	files := sourceTree(t)
	for _, r := range allRules() {
		t.Run(r.name, func(t *testing.T) {
			for _, f := range files {
				for _, wrong := range r.check(f) {
					t.Errorf("%s: %s", f.path, wrong)
				}
			}
		})
	}
}

// TestRulesCanFail proves of each rule that it tells bad from good.
func TestRulesCanFail(t *testing.T) {
	for _, r := range allRules() {
		t.Run(r.name, func(t *testing.T) {
			bad := r.check(newFile(t, r.bad.path, r.bad.text, 0o644))
			assert.Assert(t, len(bad) > 0, "the bad example passes")
			good := r.check(newFile(t, r.good.path, r.good.text, 0o755))
			assert.Assert(t, len(good) == 0, "the good example fails: %s", strings.Join(good, "; "))
		})
	}
}
