package store

import (
	"reflect"
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend"
)

// Each ability that the store looks for has a row in `strata info`.
func TestEveryAbilityIsDescribed(t *testing.T) {
	rows := abilities{}.describe(false)
	assert.Equal(t, len(rows), reflect.TypeFor[abilities]().NumField(), "%v", rows)
	seen := map[string]bool{}
	for _, r := range rows {
		assert.Assert(t, !seen[r.Name] && r.Value != "" && r.Value != "native", "%v", r)
		seen[r.Name] = true
	}
}

// The order of the ways to a difference is the one that is printed.
func TestWays(t *testing.T) {
	both := abilities{changer: struct{ backend.Changer }{}, narrower: struct{ backend.Narrower }{}}
	for _, c := range []struct {
		able       abilities
		own, exact bool
		want       string
	}{
		{both, true, true, "replay the exact tar"},
		{both, true, false, "native list, else compare what changed, else compare trees"},
		{both, false, true, "compare trees"},
		{abilities{}, true, true, "replay the exact tar"},
		{abilities{}, true, false, "compare trees"},
		{abilities{narrower: both.narrower}, true, false, "compare what changed, else compare trees"},
	} {
		assert.Equal(t, join(c.able.ways(c.own, c.exact)), c.want)
	}
	values := map[string]string{}
	for _, f := range both.describe(true) {
		values[f.Name] = f.Value
	}
	assert.Equal(t, values["changes"], "native list, else compare what changed, else compare trees")
	assert.Equal(t, values["diff"], "replay the exact tar, else "+values["changes"])
}
