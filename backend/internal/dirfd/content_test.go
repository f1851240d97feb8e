package dirfd_test

import (
	"testing"

	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/dirfd"
)

// TestRoleOf holds the table to the names that there are.
func TestRoleOf(t *testing.T) {
	for name, want := range map[string]dirfd.Role{
		"user.x": dirfd.Content, "user.overlayed": dirfd.Content, "trusted.x": dirfd.Content, "trusted.overlay": dirfd.Content,
		"security.capability": dirfd.Content, "system.posix_acl_access": dirfd.Content, "system.posix_acl_default": dirfd.Content,
		"trusted.overlay.opaque": dirfd.Mark, "trusted.overlay.any": dirfd.Mark,
		"security.selinux": dirfd.Other, "security.capability2": dirfd.Other, "system.nfs4_acl": dirfd.Other,
		"btrfs.compression": dirfd.Storage, "bcachefs.compression": dirfd.Storage, "ceph.quota": dirfd.Storage,
		"com.apple.quarantine": dirfd.Storage, "userx": dirfd.Storage, "": dirfd.Storage,
	} {
		for _, marks := range []backend.Whiteouts{backend.WhiteoutsNone, backend.WhiteoutsOverlay, backend.WhiteoutsOverlayUser} {
			assert.Equal(t, dirfd.RoleOf(name, marks), want, name)
			assert.Equal(t, dirfd.IsContent(marks)(name), want == dirfd.Content, name)
		}
	}
	const mark = "user.overlay.opaque"
	assert.Equal(t, dirfd.RoleOf(mark, backend.WhiteoutsNone), dirfd.Content)
	assert.Equal(t, dirfd.RoleOf(mark, backend.WhiteoutsOverlay), dirfd.Content)
	assert.Equal(t, dirfd.RoleOf(mark, backend.WhiteoutsOverlayUser), dirfd.Mark)
}
