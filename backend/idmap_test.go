package backend

import (
	"testing"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"
)

func TestIDMapCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		ranges []IDRange
		ok     bool
	}{
		"none":                         {nil, true},
		"one":                          {[]IDRange{{0, 100000, 65536}}, true},
		"all":                          {[]IDRange{{0, 0, 1<<32 - 1}}, true},
		"side by side":                 {[]IDRange{{10, 0, 5}, {0, 100, 10}, {15, 5, 95}}, true},
		"up to the highest":            {[]IDRange{{0, 1<<32 - 2, 1}, {1<<32 - 2, 0, 1}}, true},
		"no ID":                        {[]IDRange{{0, 100000, 0}}, false},
		"holds the highest, container": {[]IDRange{{1<<32 - 1, 0, 1}}, false},
		"holds the highest, host":      {[]IDRange{{0, 1<<32 - 1, 1}}, false},
		"grows to it":                  {[]IDRange{{0, 1, 1<<32 - 1}}, false},
		"passes the end, container":    {[]IDRange{{4294967000, 0, 65536}}, false},
		"passes the end, host":         {[]IDRange{{0, 4294967000, 65536}}, false},
		"overlap, container":           {[]IDRange{{0, 100000, 10}, {9, 200000, 10}}, false},
		"overlap, host":                {[]IDRange{{0, 100000, 10}, {100, 100009, 10}}, false},
		"twice":                        {[]IDRange{{0, 100000, 10}, {0, 100000, 10}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			good := []IDRange{{0, 0, 1}}
			for _, m := range []*IDMap{{UIDs: tc.ranges, GIDs: good}, {UIDs: good, GIDs: tc.ranges}} {
				err := m.Check()
				if tc.ok {
					assert.NilError(t, err)
				} else {
					assert.Assert(t, errdefs.IsInvalidArgument(err), "%v", err)
				}
			}
		})
	}
	assert.NilError(t, (*IDMap)(nil).Check())
}
