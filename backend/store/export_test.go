package store

import (
	"testing"

	"gotest.tools/v3/assert"
)

// Rewrite changes the state in a record, as an earlier process might have left it.
func Rewrite(t *testing.T, path string, state State) {
	t.Helper()
	var r record
	assert.NilError(t, readFile(path, &r))
	r.State = state
	assert.NilError(t, writeFile(path, r, false))
}
