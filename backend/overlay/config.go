package overlay

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend/internal/mount"
)

// Config has the settings of the backend.
type Config struct {
	// MountOpt are words for every overlay mount, after the ones that the backend itself gives. Words
	// that decide how layers are kept or which are mounted are refused.
	MountOpt []string `option:"mountopt" help:"Further options of every overlay mount, such as nodev or noatime."`
}

// NewConfig returns the defaults.
func NewConfig() *Config { return &Config{} }

// Check refuses options that would change what a layer's directory means, or who may write to it.
func (c *Config) Check() error {
	for _, word := range c.MountOpt {
		key, value, _ := strings.Cut(word, "=")
		if slices.Contains(mount.Harmless(), key) {
			if value != "" || strings.Contains(word, "=") {
				return fmt.Errorf("overlay.mountopt %q: takes no value: %w", word, errdefs.ErrInvalidArgument)
			}
			continue
		}
		switch key {
		case "xino", "uuid", "fsync", "nfs_export", "verity", "override_creds", "nooverride_creds":
		case "lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir", "default_permissions", "redirect_dir", "metacopy", "index",
			"userxattr", "volatile", "ro", "rw", "context", "fscontext", "defcontext", "rootcontext":
			return fmt.Errorf("overlay.mountopt %q: the backend itself decides that: %w", word, errdefs.ErrInvalidArgument)
		default:
			return fmt.Errorf("overlay.mountopt %q is not known: %w", word, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
