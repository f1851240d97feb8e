package config

import "slices"

// EnvVar is an entry of env in a Docker plugin's config.json.
type EnvVar struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Settable    []string `json:"settable,omitempty"`
	Value       string   `json:"value"`
}

// Variables that config.json sets and nobody can change: facts about the plugin's container.
const (
	// EnvPropagatedMount is the propagatedmount of config.json. That it is set is how a process
	// knows that it is a managed plugin.
	EnvPropagatedMount = "STRATA_PROPAGATED_MOUNT"
	// EnvData is where the host directory that holds the store is mounted in the container.
	EnvData = "STRATA_DATA"
	// EnvRun is where the host's /run is mounted in the container.
	EnvRun = "STRATA_RUN"
)

// EnvMemory is the variable of Go's runtime for how much memory its garbage collector tries to keep to (runtime/debug.SetMemoryLimit).
// Docker has no limit for the memory of plugins.
const EnvMemory = "GOMEMLIMIT"

// EnvSnapshotter is the variable of the option snapshotter-socket.
const EnvSnapshotter = "STRATA_SNAPSHOTTER_SOCKET"

// isFact says whether a variable is not a setting. Those of failpoints belong to test programs.
func isFact(name string) bool {
	return slices.Contains([]string{EnvPropagatedMount, EnvData, EnvRun, "STRATA_FAILPOINT", "STRATA_FAILPOINT_TRACE"}, name)
}

// PluginEnv is the env list of the plugin's config.json: every setting of Core that has a variable,
// the variable for all others, Go's for memory, and the facts.
func PluginEnv() []EnvVar {
	var list []EnvVar
	core := Core{}
	for _, o := range describe("", &core) {
		list = append(list, EnvVar{Name: o.Env, Description: o.Help, Settable: []string{"value"}})
	}
	return append(list,
		EnvVar{Name: EnvOptions, Description: "Any further options: KEY=VALUE, separated by blanks.", Settable: []string{"value"}},
		EnvVar{Name: EnvMemory, Description: "How much memory to keep to where that is possible, such as 512MiB. It is no limit.", Settable: []string{"value"}},
		EnvVar{Name: EnvPropagatedMount, Description: "The propagatedmount of this file.", Value: "/propagated"},
		EnvVar{Name: EnvData, Description: "The destination of the mount called data.", Value: "/hostdata"},
		EnvVar{Name: EnvRun, Description: "The destination of the mount called run.", Value: "/hostrun"},
	)
}
