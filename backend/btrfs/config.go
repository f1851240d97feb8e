package btrfs

// Config has the settings of btrfs: there are none.
type Config struct{}

// NewConfig returns the defaults.
func NewConfig() *Config { return &Config{} }
