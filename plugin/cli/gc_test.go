package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend/store"
	"strata/plugin/control/controltest"
	"strata/plugin/snapshotter"
)

// TestRelated compares nothing with the record of another Docker, nor a store that has lost its records with any.
func TestRelated(t *testing.T) {
	of := snapshotter.Prefix + "ns/1/x"
	for _, tc := range []struct {
		name    string
		store   string // its layers
		plugins string // layers in the record, of plugins
		others  string // and of a built-in driver
		gone    bool
		refused string
	}{
		{name: "both empty"},
		{name: "one in common", store: "a b", plugins: "b c"},
		{name: "none in common", store: "a", plugins: "b", refused: "none of the store's layers"},
		{name: "an empty record", store: "a", refused: "none of the store's layers"},
		{name: "an empty store", plugins: "a", refused: "the store has no layer"},
		{name: "an empty store of a Docker that is gone", plugins: "a", gone: true},
		{name: "an empty store beside a built-in driver", others: "a"},
		{name: "containerd's alone", store: of, others: "a"},
		{name: "containerd's, and Docker's are lost", store: of, plugins: "a", refused: "the store has no layer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := dockerRoot{t, t.TempDir()}
			d.write(pluginDriver+"/layerdb/sha256/x/size", nil)
			for _, name := range strings.Fields(tc.plugins) {
				d.layer(pluginDriver, name)
			}
			for _, name := range strings.Fields(tc.others) {
				d.layer("overlay2", name)
			}
			f := controltest.New()
			f.Layers = nil
			for _, name := range strings.Fields(tc.store) { // as young as can be
				f.Layers = append(f.Layers, store.Info{Name: name, ID: name, State: store.StateReady, Created: time.Now()})
			}
			_, _, err := dockerComparison{root: d.dir, gone: tc.gone, older: time.Hour}.compare(t.Context(), &target{Store: f}, true)
			if tc.refused == "" {
				assert.NilError(t, err)
				return
			}
			assert.ErrorContains(t, err, tc.refused)
			assert.Assert(t, errdefs.IsFailedPrecondition(err), "%v", err)
		})
	}
}
