package store

import (
	"reflect"
	"testing"

	"gotest.tools/v3/assert"
)

// Each ability that the store looks for has a row in `strata info`.
func TestEveryAbilityIsDescribed(t *testing.T) {
	rows := abilities{}.describe()
	assert.Equal(t, len(rows), reflect.TypeFor[abilities]().NumField(), "%v", rows)
	seen := map[string]bool{}
	for _, r := range rows {
		assert.Assert(t, !seen[r.Name] && r.Value != "" && r.Value != "native", "%v", r)
		seen[r.Name] = true
	}
}
