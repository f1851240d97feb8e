package graphdriver

import (
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// scoped does what Docker does with a path from a plugin (moby plugin/v2/plugin_linux.go,
// ScopedPath) whose directory is dir.
func scoped(dir, propagated, path string) string {
	if propagated != "" && strings.HasPrefix(path, propagated) {
		return filepath.Join(dir, "propagated-mount", strings.TrimPrefix(path, propagated))
	}
	return filepath.Join(dir, "rootfs", path)
}

func TestR16ClimbingPath(t *testing.T) {
	for _, tc := range []struct {
		name                                string
		propagated, inside, host, dir, want string // want is relative to the plugin's directory if it does not begin with /
	}{
		{"same place", "/prop", "/var/lib/strata", "/var/lib/strata", "/var/lib/strata/mnt/x", "/var/lib/strata/mnt/x"},
		{"another place", "/prop", "/store", "/srv/a b:c,d", "/store/mnt/x", "/srv/a b:c,d/mnt/x"},
		{"the root of the store", "/prop", "/store", "/srv", "/store", "/srv"},
		{"root of the host", "/prop", "/host", "/", "/host/mnt/x", "/mnt/x"},
		{"slashes at the end", "/prop/", "/store/", "/srv/", "/store/mnt/x", "/srv/mnt/x"},
		{"not below", "/prop", "/store", "/srv", "/storeroom/x", "rootfs/storeroom/x"},
		{"in the propagated mount", "/prop", "/store", "/srv", "/prop/mnt/x", "propagated-mount/mnt/x"},
		{"store in the propagated mount", "/prop", "/prop/s", "/srv", "/prop/s/mnt/x", "propagated-mount/s/mnt/x"},
		{"only like the propagated mount", "/prop", "/proper", "/srv", "/proper/x", "/srv/x"},
		{"no propagated mount", "", "/store", "/srv", "/store/x", "/srv/x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, plugin := range []string{
				"/var/lib/docker/plugins/" + id("p"),
				"/var/lib/docker/100000.100000/plugins/" + id("p"),
				"/" + strings.Repeat("d/", 50) + "plugins/" + id("p"),
			} {
				want := tc.want
				if !filepath.IsAbs(want) {
					want = filepath.Join(plugin, want)
				}
				got := scoped(plugin, tc.propagated, Climb(tc.propagated, tc.inside, tc.host)(tc.dir))
				assert.Equal(t, got, want)
			}
		})
	}
}
