package daemon

import (
	"path/filepath"

	"github.com/moby/sys/mountinfo"

	"strata/plugin"
)

// dataRoot returns the data root of the dockerd that runs this plugin, as seen here, or "" if it cannot be seen.
// Docker keeps the propagated mount in DATA-ROOT/plugins/ID/propagated-mount (moby plugin/manager.go); the mount
// table says where that lies in its file system, and which of that the host directory shows that holds the store.
func dataRoot(f facts, mounts []*mountinfo.Info) string {
	propagated := lastAt(f.propagated, mounts)
	if f.propagated == "" || propagated == nil {
		return ""
	}
	root := filepath.Dir(filepath.Dir(filepath.Dir(propagated.Root)))
	for _, m := range mounts {
		if m.Major != propagated.Major || m.Minor != propagated.Minor {
			continue
		}
		_, inData := plugin.Below(f.data, m.Mountpoint)
		if rest, ok := plugin.Below(m.Root, root); ok && inData {
			return filepath.Join(m.Mountpoint, rest)
		}
	}
	return ""
}
