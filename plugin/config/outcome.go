package config

// Outcome tells what became of a setting that was to change.
type Outcome struct {
	Key     string `json:"key"`
	Value   string `json:"value"`             // for a setting that was unset, what it is then
	Unset   string `json:"unset,omitempty"`   // where Value comes from, of a setting that was unset
	Live    bool   `json:"live"`              // in force now; else from the next start on
	Restart string `json:"restart,omitempty"` // what must be started again to put it in force, RestartDocker or RestartService; "" if Live or if nothing runs
	Winner  string `json:"winner,omitempty"`  // what outranks the config file at the next start: SOURCE has KEY=VALUE
}

// Values of Outcome.Restart.
const (
	RestartDocker  = "dockerd" // a managed plugin is started with it
	RestartService = "strata"  // strata serve, as a service or otherwise
)
