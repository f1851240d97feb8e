package store

import (
	"slices"
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend"
)

func TestCircles(t *testing.T) {
	layers := map[string]*layer{}
	for _, id := range []string{"a", "b", "c", "self", "above", "plain", "on-plain"} {
		layers[id] = &layer{rec: record{ID: id}}
	}
	for id, parent := range map[string]string{"a": "b", "b": "c", "c": "a", "self": "self", "above": "a", "on-plain": "plain"} {
		layers[id].parent = layers[parent]
	}
	var in []string
	for _, l := range circles(layers) {
		in = append(in, l.rec.ID)
	}
	slices.Sort(in)
	assert.DeepEqual(t, in, []string{"a", "b", "c", "self"})
	cutCircles(layers)
	assert.Equal(t, len(circles(layers)), 0)
	assert.Equal(t, depth(layers["above"]), 2)
}

func TestNewIDIsSafe(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := newID()
		assert.NilError(t, backend.CheckID(id))
		assert.Assert(t, !seen[id], id)
		seen[id] = true
	}
}
