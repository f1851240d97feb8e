package graphdriver

import (
	"path/filepath"
	"strings"

	"strata/plugin"
)

// maxDepth is how many directories deep Docker's data root may lie. What is too much does no harm:
// the parent of the root directory is the root directory.
const maxDepth = 64

// Climb returns the HostPath for a managed plugin that keeps its layers outside of the directory
// that Docker gave it: in host, a directory of the host, which the plugin sees at inside.
//
// Docker joins a path that begins with the plugin's propagated mount to the place where that lies
// on the host, below its data root, and does so lexically (moby plugin/v2/plugin_linux.go,
// ScopedPath). So a path that climbs out of the propagated mount, far enough to reach the host's
// root, can name any directory of the host. A directory within the propagated mount needs no
// climbing and stays as it is, and so does one that is not below inside. propagated is "" for a
// plugin without a propagated mount, whose paths Docker joins to the plugin's root file system.
func Climb(propagated, inside, host string) func(dir string) string {
	return func(dir string) string {
		rest, ok := plugin.Below(inside, dir)
		if _, own := plugin.Below(propagated, dir); own || !ok {
			return dir
		}
		return strings.TrimSuffix(propagated, "/") + strings.Repeat("/..", maxDepth) + filepath.Join("/", host, rest)
	}
}
