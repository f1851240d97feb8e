package plugin

import (
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// TestWriteArray: what is written element by element is what encoding/json makes of the whole.
func TestWriteArray(t *testing.T) {
	type element struct {
		Path string `json:"path"`
		List []int  `json:"list"`
	}
	for _, list := range [][]element{{}, {{"/a", nil}}, {{"/<&>", []int{1, 2}}, {"/b\n", []int{}}, {"/\xff", nil}}} {
		for _, indent := range []string{"", "  ", "\t"} {
			want, err := json.MarshalIndent(list, "", indent)
			if indent == "" {
				want, err = json.Marshal(list)
			}
			assert.NilError(t, err)
			var got strings.Builder
			assert.NilError(t, WriteArray(&got, sequence(list, nil), indent))
			assert.Equal(t, got.String(), string(want))
		}
	}
	broken := errors.New("broken")
	var got strings.Builder
	assert.ErrorIs(t, WriteArray(&got, sequence([]element{{"/a", nil}}, broken), ""), broken)
	assert.Assert(t, !json.Valid([]byte(got.String())), got.String())
}

func sequence[T any](list []T, err error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for e := range slices.Values(list) {
			if !yield(e, nil) {
				return
			}
		}
		if err != nil {
			var none T
			yield(none, err)
		}
	}
}
