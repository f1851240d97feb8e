package mount

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"strata/backend"
)

func TestEscape(t *testing.T) {
	for _, c := range []struct{ dir, upper, lower string }{
		{"/a/b", "/a/b", "/a/b"},
		{"/a:b", "/a:b", `/a\:b`},
		{"/a,b", `/a\,b`, `/a\,b`},
		{`/a\b`, `/a\\b`, `/a\\b`},
		{`/a\:b`, `/a\\:b`, `/a\\\:b`},
		{`/a\,`, `/a\\\,`, `/a\\\,`},
		{"/a b", "/a b", "/a b"},
	} {
		assert.Equal(t, escapeDir(c.dir), c.upper)
		assert.Equal(t, escapeLower(c.dir), c.lower)
	}
}

func TestOptionText(t *testing.T) {
	label := "system_u:object_r:container_file_t:s0:c1,c2"
	for name, c := range map[string]struct {
		mount backend.Mount
		text  string
		flags uintptr
	}{
		"overlay": {
			backend.Mount{Type: "overlay", Options: []string{"upperdir=/u,p", "lowerdir+=/b:c", "workdir=/w", "lowerdir+=/d", "index=off", "volatile"}},
			`lowerdir=/b\:c:/d,upperdir=/u\,p,workdir=/w,index=off,volatile`, 0,
		},
		"label": {
			backend.Mount{Type: "overlay", Options: []string{"lowerdir+=/d", "context=" + label, "ro"}},
			`lowerdir=/d,context="` + label + `"`, unix.MS_RDONLY,
		},
		"flags": {
			backend.Mount{Type: "tmpfs", Options: []string{"defaults", "nosuid", "nodev", "noatime", "sync", "size=5m"}},
			"size=5m", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOATIME | unix.MS_SYNCHRONOUS,
		},
		"last word wins": {
			backend.Mount{Type: "tmpfs", Options: []string{"ro", "noatime", "noexec", "rw", "strictatime", "exec"}},
			"", unix.MS_STRICTATIME,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := parse(c.mount)
			assert.NilError(t, err)
			d, err := r.lay()
			assert.NilError(t, err)
			text, err := d.text()
			assert.NilError(t, err)
			assert.Equal(t, text, c.text)
			// relatime is the default, and its value in mount_setattr is 0
			assert.Equal(t, r.flags()&^unix.MS_RELATIME, c.flags)
		})
	}
	for _, bad := range []string{`context=a"b`, `context=a\b`, "metacopy=a,b"} {
		r, err := parse(backend.Mount{Type: "overlay", Options: []string{"lowerdir+=/d", bad}})
		assert.NilError(t, err)
		_, err = r.lay()
		assert.ErrorContains(t, err, "invalid argument")
	}
}

func TestIDMapOption(t *testing.T) {
	m := &backend.IDMap{
		UIDs: []backend.IDRange{{Container: 0, Host: 1000, Size: 1}, {Container: 1, Host: 100000, Size: 65535}},
		GIDs: []backend.IDRange{{Container: 0, Host: 5, Size: 4294967295}},
	}
	word := IDMapOption(m)
	assert.Equal(t, word, "X-mount.idmap=u:0:1000:1 u:1:100000:65535 g:0:5:4294967295")
	back, err := parseIDMap(strings.TrimPrefix(word, "X-mount.idmap="))
	assert.NilError(t, err)
	assert.DeepEqual(t, back, m)

	both, err := parseIDMap("b:0:7:2")
	assert.NilError(t, err)
	assert.Assert(t, cmp.Equal(both.UIDs, both.GIDs))
	for _, bad := range []string{"", "u:0:0:1", "x:0:0:1", "b:0:0", "b:0:0:0", "b:0:0:4294967296", "b:-1:0:1", "b:0:0:1:2", "0:0:1"} {
		_, err := parseIDMap(bad)
		assert.ErrorContains(t, err, "invalid argument", bad)
	}
}

// TestHarmless holds that each option that a user may add is one that mounts know.
func TestHarmless(t *testing.T) {
	attrs, super := attributes(), superFlags()
	for _, word := range Harmless() {
		a, isAttr := attrs[word]
		_, isSuper := super[word]
		assert.Check(t, isAttr && a.set|a.clear != 0 || isSuper, word)
	}
}
