package zfs

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend/internal/mount"
	"strata/backend/zfs/parent"
)

// Config has the settings of the backend. A property that is set holds for layers made from then on; one that is
// "inherit" is the parent dataset's, as encryption always is.
type Config struct {
	FSName      string   `option:"fsname" change:"fixed" help:"Dataset below which each layer is one. Empty: the dataset that the store's directory lies on."`
	MountOpt    []string `option:"mountopt" help:"Further options of every mount, such as nodev or noatime."`
	Compression string   `option:"compression" help:"Property of new layers, such as lz4 or zstd, or inherit."`
	RecordSize  string   `option:"recordsize" help:"Property of new layers, such as 128K, or inherit."`
	ATime       string   `option:"atime" values:"off,on,inherit" help:"Property of new layers: whether reading a file changes it."`
	XAttr       string   `option:"xattr" values:"sa,on,dir,off,inherit" help:"Property of new layers: where extended attributes are kept."`
	ACLType     string   `option:"acltype" values:"posixacl,off,inherit" help:"Property of new layers: which access control lists files can have."`
}

// inherit is the value of a property that is left to the parent dataset.
const inherit = "inherit"

// NewConfig returns the defaults: those under which a layer can hold all that an image can.
func NewConfig() *Config {
	return &Config{Compression: inherit, RecordSize: inherit, ATime: "off", XAttr: "sa", ACLType: "posixacl"}
}

var (
	compressions = regexp.MustCompile(`^(on|off|lzjb|lz4|zle|gzip(-[1-9])?|zstd(-([1-9]|1[0-9]))?|zstd-fast(-[1-9][0-9]{0,3})?)$`)
	recordSizes  = regexp.MustCompile(`^(512|1[kK]|2[kK]|4[kK]|8[kK]|16[kK]|32[kK]|64[kK]|128[kK]|256[kK]|512[kK]|1[mM]|2[mM]|4[mM]|8[mM]|16[mM])$`)
)

// Check refuses what zfs(8) would refuse later, and mount options that are not the user's to choose.
func (c *Config) Check() error {
	if c.FSName != "" && !parent.IsName(c.FSName) {
		return fmt.Errorf("zfs.fsname %q is not the name of a dataset: %w", c.FSName, errdefs.ErrInvalidArgument)
	}
	if c.Compression != inherit && !compressions.MatchString(c.Compression) {
		return fmt.Errorf("zfs.compression %q: want on, off, lz4, gzip-1 to gzip-9, zstd-1 to zstd-19, zstd-fast, zle or lzjb: %w", c.Compression, errdefs.ErrInvalidArgument)
	}
	if c.RecordSize != inherit && !recordSizes.MatchString(c.RecordSize) {
		return fmt.Errorf("zfs.recordsize %q: want a power of two from 512 to 16M, such as 128K: %w", c.RecordSize, errdefs.ErrInvalidArgument)
	}
	known := append(mount.Harmless(), "nbmand")
	for _, word := range c.MountOpt {
		if !slices.Contains(known, word) {
			return fmt.Errorf("zfs.mountopt %q: want some of %s: %w", word, strings.Join(known, ", "), errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// properties are those that a new dataset is made with, NAME=VALUE.
func (c *Config) properties() []string {
	var list []string
	for _, p := range []struct{ name, value string }{
		{"compression", c.Compression},
		{"recordsize", c.RecordSize},
		{"atime", c.ATime},
		{"xattr", c.XAttr},
		{"acltype", c.ACLType},
	} {
		if p.value != inherit {
			list = append(list, p.name+"="+p.value)
		}
	}
	return list
}

// numbers tells which properties the kernel takes as which number: those that have been the same since OpenZFS 0.8, because
// they are on disk (include/sys/zfs_ioctl.h, include/sys/zio.h). Only zfs(8) of the module's version knows the others.
func numbers() map[string]uint64 {
	return map[string]uint64{
		"atime=off": 0, "atime=on": 1,
		"xattr=off": 0, "xattr=dir": 1, "xattr=sa": 2,
		"acltype=off": 0, "acltype=posixacl": 1,
		"compression=on": 1, "compression=off": 2, "compression=lz4": 15,
	}
}
