package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// inContainer is the mount table of a managed plugin; %DATA% is the line of the data directory.
const inContainer = `500 400 8:1 /var/lib/docker/plugins/id/rootfs / rw,relatime shared:300 - ext4 /dev/sda1 rw
501 500 0:5 / /proc rw - proc proc rw
502 500 8:1 /var/lib/docker/plugins/id/propagated-mount /propagated rw shared:1 - ext4 /dev/sda1 rw
%DATA%
`

func TestLocate(t *testing.T) {
	data := func(line string) string { return strings.Replace(inContainer, "%DATA%", line, 1) }
	for _, tc := range []struct {
		name, root, mounts string
		doubt              string // "" for none
		err                string // "" for none
	}{
		{"shared", "/var/lib/strata", data("503 500 8:1 /var/lib /data rw shared:1 - ext4 /dev/sda1 rw"), "", ""},
		{"/var is a file system", "/var/lib/strata", data("503 500 8:2 /lib /data rw shared:1 - ext4 /dev/sda2 rw"), "", ""},
		{"/var/lib is a file system", "/var/lib/strata", data("503 500 8:2 / /data rw shared:1 - xfs /dev/sda2 rw"), "", ""},
		{"btrfs, root subvolume", "/var/lib/strata", data("503 500 0:30 /@/var/lib /data rw shared:1 - btrfs /dev/sda2 rw,subvolid=256,subvol=/@"), "", ""},
		{"btrfs, own subvolume", "/var/lib/strata", data("503 500 0:30 /@lib /data rw shared:1 - btrfs /dev/sda2 rw,subvolid=256,subvol=/@lib"), "", ""},
		{"btrfs, top subvolume", "/var/lib/strata", data("503 500 0:30 /var/lib /data rw shared:1 - btrfs /dev/sda2 rw,subvolid=5,subvol=/"), "", ""},
		{"the store is a mount of its own", "/var/lib/strata", data("503 500 8:1 /var/lib /data rw shared:1 - ext4 /dev/sda1 rw\n504 503 7:1 / /data/strata rw shared:999 - xfs /dev/loop0 rw"), "", ""},
		{"another directory", "/srv/big/strata", data("503 500 8:1 /srv/big /data rw shared:1 - ext4 /dev/sda1 rw"), "", ""},
		{"data.source alone was set", "/var/lib/strata", data("503 500 8:1 /srv/big /data rw shared:1 - ext4 /dev/sda1 rw"), "data.source=DIR STRATA_ROOT=DIR/strata", ""},
		{"root alone was set", "/srv/big/strata", data("503 500 8:1 /var/lib /data rw shared:1 - ext4 /dev/sda1 rw"), "set both", ""},
		{"a name that only ends alike", "/xvar/lib/strata", data("503 500 8:1 /var/lib /data rw shared:1 - ext4 /dev/sda1 rw"), "set both", ""},
		{"a btrfs subvolume elsewhere", "/var/lib/strata", data("503 500 0:30 /@/srv /data rw shared:1 - btrfs /dev/sda2 rw,subvol=/@"), "set both", ""},
		{"nothing is mounted", "/var/lib/strata", data(""), "", "no host directory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mounts := parse(t, tc.mounts)
			p, err := locateAmong(tc.root, false, facts{"/propagated", "/data", "/hostrun"}, mounts)
			if tc.err != "" {
				assert.ErrorContains(t, err, tc.err)
				return
			}
			assert.NilError(t, err)
			_, err = locateAmong(tc.root, true, facts{"/propagated", "/data", "/hostrun"}, mounts)
			assert.Equal(t, errdefs.IsInvalidArgument(err), tc.doubt != "", "what somebody has chosen is refused, not doubted: %v", err)
			assert.Equal(t, p.Root, "/data/strata")
			assert.Equal(t, p.HostRoot, tc.root)
			assert.Equal(t, p.doubt == "", tc.doubt == "", p.doubt)
			assert.Assert(t, strings.Contains(p.doubt, tc.doubt), p.doubt)
		})
	}
}

// TestSource: where containerd knows what is bound, nothing is left to guess.
func TestSource(t *testing.T) {
	run := t.TempDir()
	bundle := filepath.Join(run, "docker/containerd/daemon/io.containerd.runtime.v2.task/plugins.moby/4711")
	assert.NilError(t, os.MkdirAll(bundle, 0o700))
	file := filepath.Join(bundle, "config.json")
	f := facts{"/propagated", "/data", run}
	// A file system of its own, which the mount table knows as /.
	mounts := parse(t, strings.Replace(inContainer, "%DATA%", "503 500 8:2 / /data rw - ext4 /dev/sda2 rw\n"+
		"504 500 0:22 /docker/plugins/4711 /run/docker/plugins rw - tmpfs tmpfs rw", 1))
	const text = `{"mounts":[{"destination":"/proc","source":"proc"},{"destination":"/data","source":"/mnt/ssd/"}]}`
	for _, tc := range []struct{ name, text, root, err string }{
		{"unknown", "", "/srv/strata", ""},
		{"directly in it", text, "/mnt/ssd/strata", ""},
		{"elsewhere", text, "/srv/strata", "does not lie directly in /mnt/ssd"},
		{"deeper", text, "/mnt/ssd/a/strata", "does not lie directly in /mnt/ssd"},
		{"damaged", "{", "/mnt/ssd/strata", "find data.source"},
		{"no such mount", "{}", "/srv/strata", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.text != "" {
				assert.NilError(t, os.WriteFile(file, []byte(tc.text), 0o600))
			}
			p, err := locateAmong(tc.root, false, f, mounts)
			if tc.err != "" {
				assert.ErrorContains(t, err, tc.err)
				return
			}
			assert.NilError(t, err)
			assert.Equal(t, p.doubt, "")
		})
	}
}

func TestOutsideAContainer(t *testing.T) {
	p, err := locate("/srv/strata", true, factsOf([]string{"PATH=/bin"}))
	assert.NilError(t, err)
	assert.DeepEqual(t, []string{p.Root, p.HostRoot, p.MountDir}, []string{"/srv/strata", "/srv/strata", ""})
	assert.Equal(t, p.hostPath("/srv/strata/mnt/x"), "/srv/strata/mnt/x")
	here, err := p.here("/other")
	assert.NilError(t, err)
	assert.Equal(t, here, "/other")
}

func TestPathsOfAContainer(t *testing.T) {
	p := Placement{data: "/data", hostData: "/var/lib", run: "/hostrun"}
	assert.Equal(t, p.hostPath("/hostrun/strata-1/.active/x"), "/run/strata-1/.active/x")
	assert.Equal(t, p.hostPath("/data/strata/mnt/x"), "/var/lib/strata/mnt/x")
	assert.Equal(t, p.hostPath("/data"), "/var/lib")
	assert.Equal(t, p.hostPath("/database"), "/database")
	here, err := p.here("/var/lib/other/store")
	assert.NilError(t, err)
	assert.Equal(t, here, "/data/other/store")
	_, err = p.here("/srv/store")
	assert.Assert(t, errdefs.IsInvalidArgument(err), "%v", err)
	root := Placement{data: "/data", hostData: "/"}
	here, err = root.here("/srv/store")
	assert.NilError(t, err)
	assert.Equal(t, here, "/data/srv/store")
}

// TestUnseen: what is mounted for containerd must be where containerd sees it.
func TestUnseen(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a mount namespace")
	}
	dir := t.TempDir()
	done := make(chan map[string]error)
	go func() { // in a thread that ends with this
		runtime.LockOSThread()
		got := map[string]error{"unshare": unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)}
		got["leave"] = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		got["tmpfs"] = unix.Mount("tmpfs", dir, "tmpfs", 0, "")
		got["make private"] = unix.Mount("", dir, "", unix.MS_PRIVATE, "")
		got["private"] = Placement{}.unseen(dir)
		got["make shared"] = unix.Mount("", dir, "", unix.MS_SHARED, "")
		got["shared with nobody"] = Placement{}.unseen(dir)
		got["peer"] = errors.Join(os.Mkdir(dir+"/peer", 0o700), unix.Mount(dir, dir+"/peer", "", unix.MS_BIND, ""))
		got["shared"] = Placement{}.unseen(dir)
		got["plugin"] = Placement{data: "/data", run: "/hostrun"}.unseen(dir)
		got["plugin without /run"] = Placement{data: "/data"}.unseen(dir)
		done <- got
	}()
	for what, err := range <-done {
		switch what {
		case "private", "shared with nobody":
			assert.ErrorContains(t, err, "mount --make-shared")
			assert.Assert(t, errdefs.IsFailedPrecondition(err))
		case "plugin without /run":
			assert.ErrorContains(t, err, "mount a tmpfs")
		default:
			assert.NilError(t, err, what)
		}
	}
}

func TestFacts(t *testing.T) {
	assert.Equal(t, factsOf([]string{"A=b", "STRATA_DATA=/d", "STRATA_RUN=/r", "STRATA_PROPAGATED_MOUNT=/p"}), facts{propagated: "/p", data: "/d", run: "/r"})
}

func TestMountDir(t *testing.T) {
	f := facts{"/propagated", "/data", "/hostrun"}
	broken := errors.New("broken")
	for _, tc := range []struct {
		name string
		seen bool // what is mounted below the host's /run
		err  error
		want string
	}{
		{"seen", true, nil, "/hostrun/strata-aa791011"},
		{"a directory of the root file system, or not shared", false, nil, "/propagated/mnt"},
		{"not mounted", false, fs.ErrNotExist, "/propagated/mnt"},
		{"unknown", false, broken, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var p Placement
			err := p.settle("/var/lib/strata", f, func(dir string) (bool, error) {
				assert.Equal(t, dir, "/hostrun")
				return tc.seen, tc.err
			})
			if tc.want == "" {
				assert.ErrorIs(t, err, broken)
				return
			}
			assert.NilError(t, err)
			assert.Equal(t, p.MountDir, tc.want)
			told := p.dockerPath("/propagated")(p.MountDir + "/x")
			if p.run == "" {
				assert.Equal(t, told, "/propagated/mnt/x")
				assert.Equal(t, p.own, "/propagated")
				return
			}
			assert.Equal(t, filepath.Join("/var/lib/docker/plugins/id/propagated-mount", strings.TrimPrefix(told, "/propagated")), "/run/strata-aa791011/x")
		})
	}
}

// TestBegin: a process whose mounts nobody sees ends, so that Docker starts the next one with a new propagated mount, but not again and again.
func TestBegin(t *testing.T) {
	p := Placement{own: t.TempDir()}
	seen := func(ok bool) func(string) (bool, error) { return func(string) (bool, error) { return ok, nil } }
	assert.NilError(t, Placement{}.begin(seen(false)), "layers are mounted elsewhere")
	assert.NilError(t, p.begin(seen(true)))
	assert.ErrorIs(t, p.begin(seen(false)), errTaken)
	err := p.begin(seen(false))
	assert.Assert(t, errdefs.IsFailedPrecondition(err), "%v", err)
	assert.ErrorContains(t, err, "--make-shared /run")
	assert.NilError(t, p.begin(seen(true)))
	assert.ErrorIs(t, p.begin(seen(false)), errTaken, "what an earlier one has tried with success counts no more")
	past := time.Now().Add(-time.Hour)
	assert.NilError(t, os.Chtimes(filepath.Join(p.own, anewFile), past, past))
	assert.ErrorIs(t, p.begin(seen(false)), errTaken)
}

// TestEndAfterKnock: dockerd disables a plugin that is gone when it looks whether it listens.
func TestEndAfterKnock(t *testing.T) {
	for _, row := range []struct {
		name  string
		act   func(d *daemon, end context.CancelFunc)
		begun time.Time
		want  error
	}{
		{"knock", func(d *daemon, _ context.CancelFunc) { close(d.knocked) }, time.Now(), errTaken},
		{"end", func(_ *daemon, end context.CancelFunc) { end() }, time.Now(), nil},
		{"no knock", func(*daemon, context.CancelFunc) {}, time.Now().Add(time.Second - knockPatience), errTaken},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := &daemon{knocked: make(chan struct{})}
			ctx, end := context.WithCancel(t.Context())
			defer end()
			got := make(chan error, 1)
			go func() { got <- d.awaitKnock(ctx, row.begun) }()
			select {
			case err := <-got:
				t.Fatalf("it did not wait: %v", err)
			case <-time.After(50 * time.Millisecond):
			}
			row.act(d, end)
			assert.ErrorIs(t, <-got, row.want)
		})
	}
}
