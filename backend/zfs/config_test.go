package zfs

import (
	"testing"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"
)

func TestConfig(t *testing.T) {
	assert.NilError(t, NewConfig().Check())
	for _, c := range []struct {
		change func(c *Config)
		want   string // "" is fine
	}{
		{func(c *Config) { c.FSName = "tank/docker layers/a_b.c:d-e" }, ""},
		{func(c *Config) { c.FSName = "tank/docker@snap" }, "zfs.fsname"},
		{func(c *Config) { c.FSName = "tank//docker" }, "zfs.fsname"},
		{func(c *Config) { c.FSName = "/tank" }, "zfs.fsname"},
		{func(c *Config) { c.FSName = "-r" }, "zfs.fsname"},
		{func(c *Config) { c.FSName = "tank/docker\n" }, "zfs.fsname"},
		{func(c *Config) { c.Compression = "zstd-19" }, ""},
		{func(c *Config) { c.Compression = "zstd-20" }, "zfs.compression"},
		{func(c *Config) { c.Compression = "" }, "zfs.compression"},
		{func(c *Config) { c.RecordSize = "1M" }, ""},
		{func(c *Config) { c.RecordSize = "100K" }, "zfs.recordsize"},
		{func(c *Config) { c.MountOpt = []string{"nodev", "noatime"} }, ""},
		{func(c *Config) { c.MountOpt = []string{"ro"} }, "zfs.mountopt"},
	} {
		config := NewConfig()
		c.change(config)
		err := config.Check()
		if c.want == "" {
			assert.NilError(t, err)
			continue
		}
		assert.ErrorContains(t, err, c.want)
		assert.Assert(t, errdefs.IsInvalidArgument(err))
	}
}
