package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

// Sockets of a containerdHost.
const (
	containerdSocket  = "/run/containerd/containerd.sock"
	snapshotterSocket = "/run/strata/snapshotter.sock"
	strataSocket      = "/run/strata/strata.sock"
)

// containerdHost is a machine with a containerd whose snapshotter is Strata, both started by the test.
type containerdHost struct {
	*engine.Machine
	program    string // Strata
	backend    string
	differ     bool // Strata unpacks and compares, too
	new        bool // containerd is one of version 2
	serial     bool // and unpacks the layers of an image one by one
	more       string
	containerd *engine.Service
	strata     *engine.Service
	docker     *engine.Service // nil unless the test starts one
}

// containerdSetup is what a containerdHost is to be.
type containerdSetup struct {
	usr     string // laid over /usr
	backend string
	fs      string
	differ  bool
	new     bool
	serial  bool   // containerd is one of 2.1, which unpacks layers one by one
	config  string // further parts of containerd's
	managed bool   // Strata is not started: it is to be a plugin of Docker's
}

func newContainerdHost(t *testing.T, s containerdSetup) *containerdHost {
	t.Helper()
	m, err := engine.Boot(context.WithoutCancel(t.Context()), engine.Config{Usr: s.usr, FS: s.fs, Bare: true})
	assert.NilError(t, err)
	h := &containerdHost{
		Machine: m, backend: s.backend, differ: s.differ, new: s.new, serial: s.serial, more: s.config,
		program: filepath.Join(fixtures(t).plugins[0], "rootfs", "strata"),
	}
	t.Cleanup(func() {
		for _, s := range []*engine.Service{h.docker, h.containerd, h.strata} {
			if t.Failed() && s != nil {
				t.Logf("log:\n%s", s.Log())
			}
			if s != nil {
				assert.Check(t, s.Stop())
			}
		}
		left, err := m.Left()
		assert.Check(t, err)
		assert.Check(t, len(left) == 0, "left after containerd ended:\n%s", strings.Join(left, "\n"))
		assert.Check(t, m.Close())
	})
	assert.NilError(t, os.WriteFile(m.Path("/etc/containerd-strata.toml"), []byte(h.config()), 0o600))
	if !s.managed {
		h.startStrata(t)
	}
	h.startContainerd(t)
	return h
}

// config is containerd's, as docs/containerd.md has it.
func (h *containerdHost) config() string {
	version := 2
	if h.new {
		version = 3
	}
	more := h.more
	if more == "" {
		more = "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"
	}
	text := fmt.Sprintf(`version = %d
%s[proxy_plugins.strata]
  type = "snapshot"
  address = "%s"
`, version, more, snapshotterSocket)
	differ := "walking"
	if h.new && h.backend == "overlay" {
		text += `  capabilities = ["rebase", "remap-ids"]
`
	}
	if h.differ {
		differ = "strata-diff"
		text += `[proxy_plugins.strata-diff]
  type = "diff"
  address = "` + snapshotterSocket + `"
[plugins."io.containerd.service.v1.diff-service"]
  default = ["strata-diff", "walking"]
`
	}
	if h.new {
		text += `[plugins."io.containerd.transfer.v1.local"]
  max_concurrent_unpacks = 4
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/amd64"
  snapshotter = "strata"
  differ = "` + differ + `"
`
	}
	return text
}

func (h *containerdHost) startContainerd(t *testing.T) {
	t.Helper()
	s, err := h.Serve(t.Context(), "containerd", containerdSocket, "containerd", "--config", "/etc/containerd-strata.toml", "--log-level", "debug")
	assert.NilError(t, err)
	h.containerd = s
}

func (h *containerdHost) startStrata(t *testing.T) {
	t.Helper()
	s, err := h.Serve(t.Context(), "strata", snapshotterSocket, h.program, "serve",
		"--snapshotter-socket", snapshotterSocket, "--graphdriver-socket", strataSocket, "--backend", h.backend)
	assert.NilError(t, err)
	h.strata = s
}

// run runs a command in the machine, which must succeed, and returns its output.
func (h *containerdHost) run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := h.try(t, argv...)
	assert.NilError(t, err)
	return out
}

func (h *containerdHost) try(t *testing.T, argv ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	out, err := engine.Output(h.Command(ctx, argv[0], argv[1:]...))
	if ctx.Err() != nil {
		err = fmt.Errorf("%q hung: %w", argv, err)
	}
	return out, err
}

func (h *containerdHost) ctr(t *testing.T, args ...string) string {
	t.Helper()
	return h.run(t, append([]string{"ctr"}, args...)...)
}

// load loads an image of the fixtures.
func (h *containerdHost) load(t *testing.T, name string) {
	t.Helper()
	h.ctr(t, "images", "import", "--snapshotter", "strata", fixtures(t).archive(name))
}

// container runs a command in a container of an image that is removed afterwards. ctr may throw away what a process wrote just before
// its end (containerd client/task.go: Delete cancels the copying), so it ends later.
func (h *containerdHost) container(t *testing.T, image, name, script string) string {
	t.Helper()
	return h.ctr(t, "run", "--snapshotter", "strata", "--rm", "--cgroup", h.Cgroup()+"/"+name, image, name, "sh", "-c", "{ "+script+"; } && sleep 1")
}

// cli begins a command line of Strata's own.
func (h *containerdHost) cli() []string {
	if h.strata == nil {
		return []string{h.program} // it finds the plugin
	}
	return []string{h.program, "--socket", strataSocket}
}

// check asks Strata for damage. What a client that was killed had not finished is none.
func (h *containerdHost) check(t *testing.T, flags ...string) {
	t.Helper()
	out, err := h.try(t, slices.Concat(h.cli(), []string{"check", "--deep"}, flags)...)
	assert.NilError(t, err, "%s", out)
	for _, line := range strings.Split(out, "\n") {
		assert.Assert(t, line == "no damage found" || strings.HasPrefix(line, "WHAT ") || strings.HasPrefix(line, "unfinished "), "%s", out)
	}
}

// layers lists the layers that Strata has.
func (h *containerdHost) layers(t *testing.T) []string {
	t.Helper()
	out := h.run(t, append(h.cli(), "ls", "--quiet")...)
	if out == "" {
		return nil
	}
	return strings.Split(out, "\n")
}

const dockerIO = "docker.io/library/"

// TestContainerd does with containerd what users do, with and without Strata's differ.
func TestContainerd(t *testing.T) {
	f := fixtures(t)
	for _, r := range engine.Releases() {
		usr, err := r.Usr(t.Context(), f.cache)
		assert.NilError(t, err)
		for _, s := range []containerdSetup{
			{usr: usr, backend: "overlay"},
			{usr: usr, backend: "overlay", differ: true},
			{usr: usr, backend: "btrfs", fs: "btrfs"},
			{usr: usr, backend: "vfs", differ: true},
		} {
			if s.differ && r.Version == "20.10" {
				continue // its containerd, 1.6, ends at once when told of a differ that is a proxy
			}
			name := r.Suite + "-" + s.backend
			if s.differ {
				name += "-differ"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				testContainerd(t, newContainerdHost(t, s))
			})
		}
	}
}

func testContainerd(t *testing.T, h *containerdHost) {
	f := fixtures(t)
	for name, layers := range map[string][]*engine.Layer{"busybox": {f.busybox}, "debian": {f.debian}, "many": {f.busybox, f.many}} {
		h.load(t, name)
		got, want := h.tree(t, dockerIO+name+":latest"), manifest(t, layers...)
		assert.Assert(t, cmp.Diff(want, got) == "", "%s: %s", name, cmp.Diff(want, got))
	}
	assert.Equal(t, h.container(t, dockerIO+"busybox:latest", "one", "rm /etc/group; echo new >/new; cat /new"), "new")
	h.observed(t)
	h.marks(t)
	h.odd(t)
	h.touched(t)
	h.commit(t)
	if h.new && h.backend == "overlay" {
		h.remap(t)
	}
	h.check(t, "--containerd-root", "/var/lib/containerd")
	h.clear(t)
}

// observed looks for what containerd did in Strata's log and metrics, and for a call that fails.
func (h *containerdHost) observed(t *testing.T) {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+h.Path(snapshotterSocket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	assert.NilError(t, err)
	_, err = snapshotsapi.NewSnapshotsClient(conn).Prepare(t.Context(), &snapshotsapi.PrepareSnapshotRequest{Key: "default/1/orphan", Parent: "none"})
	assert.Assert(t, err != nil)
	assert.NilError(t, conn.Close())
	said := h.strata.Log()
	for _, words := range []string{`msg="opened the store"`, `msg="Prepare failed"`, "snapshot=default/1/orphan", "class=not-found"} {
		assert.Assert(t, strings.Contains(said, words), "%s is missing in %s", words, said)
	}
	metrics := h.run(t, "curl", "--silent", "--fail", "--unix-socket", strataSocket, "http://strata/metrics")
	for _, series := range []string{
		`strata_calls_total{op="Prepare",protocol="snapshots"}`, `strata_calls_total{op="Commit",protocol="snapshots"}`,
		`strata_errors_total{class="not-found",op="Prepare",protocol="snapshots"} 1`,
	} {
		assert.Assert(t, strings.Contains(metrics, series), "%s is missing in %s", series, metrics)
	}
	applied := strings.Contains(metrics, `strata_bytes_total{direction="in",op="Apply",protocol="diff"}`)
	assert.Equal(t, applied, h.differ, metrics)
}

// remap runs containers in a user namespace: root there is 100000 outside, and sees its files as its own. With labels the image's
// files belong to the host's root on disk, and Strata shows them as the container's; without, the client changes a copy.
func (h *containerdHost) remap(t *testing.T) {
	t.Helper()
	root := " 0:0 "
	if !h.differ {
		root = " 100000:100000 " // containerd's own takes owners as they are on disk
	}
	for key, c := range map[string]struct{ flag, owner string }{"labels": {"--remap-labels", root}, "copied": {"--remap-labels=false", " 100000:100000 "}} {
		out := h.ctr(t, "run", "--snapshotter", "strata", "--cgroup", h.Cgroup()+"/"+key, "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536", c.flag,
			dockerIO+"busybox:latest", key, "sh", "-c", "{ id -u; stat -c %u:%g /etc/passwd; echo x >/mine; stat -c %u:%g /mine; cat /proc/self/uid_map; } && sleep 1")
		assert.DeepEqual(t, strings.Fields(out), strings.Fields("0 0:0 0:0 0 100000 65536"))
		tar := h.ctr(t, "snapshots", "--snapshotter", "strata", "diff", "--media-type", "application/vnd.oci.image.layer.v1.tar", key)
		m, err := engine.ReadManifest(strings.NewReader(tar))
		assert.NilError(t, err)
		assert.Assert(t, strings.Contains(m["/mine"], c.owner), "%s: %v", key, m)
		h.ctr(t, "containers", "rm", key)
	}
}

// commit makes a layer of what a container has changed.
func (h *containerdHost) commit(t *testing.T) {
	t.Helper()
	image := dockerIO + "busybox:latest"
	h.ctr(t, "run", "--snapshotter", "strata", "--cgroup", h.Cgroup()+"/two", image, "two", "sh", "-c",
		"rm /etc/group; mkdir /d; echo content >/d/f; ln /d/f /d/hard; chmod 600 /etc/passwd; mv /home /moved")
	tar := []byte(h.ctr(t, "snapshots", "--snapshotter", "strata", "diff", "--media-type", "application/vnd.oci.image.layer.v1.tar", "--keep", "two"))
	m, err := engine.ReadManifest(bytes.NewReader(tar))
	assert.NilError(t, err)
	for _, path := range []string{"/etc/.wh.group", "/d/f", "/d/hard", "/etc/passwd", "/moved", "/.wh.home"} {
		assert.Assert(t, m[path] != "", "%s is missing in %v", path, m)
	}
	assert.Assert(t, len(m) < 20, "more than what changed: %v", m)
	h.ctr(t, "snapshots", "--snapshotter", "strata", "commit", "kept", "two")
	h.ctr(t, "snapshots", "--snapshotter", "strata", "prepare", "again", "kept")
	usage := h.ctr(t, "snapshots", "--snapshotter", "strata", "usage", "kept")
	assert.Assert(t, strings.Contains(usage, "kept"), usage)
	for _, key := range []string{"again", "kept"} {
		h.ctr(t, "snapshots", "--snapshotter", "strata", "rm", key)
	}
	h.ctr(t, "containers", "rm", "two")
}

// TestBothAtOnce: a managed plugin is dockerd's storage driver and containerd's snapshotter, on one store, and neither
// sees the other's layers.
func TestBothAtOnce(t *testing.T) {
	forReleases(t, func(t *testing.T, s setup) {
		s.fs = "ext4"
		s.options = []string{"STRATA_SNAPSHOTTER_SOCKET=" + snapshotterSocket}
		s.containerd = "[proxy_plugins.strata]\n  type = \"snapshot\"\n  address = \"" + snapshotterSocket + "\"\n"
		h := newHost(t, s)
		h.install(t)
		h.start(t)
		f := fixtures(t)
		c := &containerdHost{Machine: h.Machine, program: f.strata(), backend: "overlay"}
		h.do(t, "load", "--input", f.archive("busybox"))
		docker := c.layers(t)
		c.load(t, "many")
		both := c.layers(t)
		assert.Assert(t, len(both) > len(docker), "%v", both)
		h.kill(t, killPlugin)
		h.revive(t, killPlugin)
		c.await(t)
		got, want := c.tree(t, dockerIO+"many:latest"), manifest(t, f.busybox, f.many)
		assert.Assert(t, cmp.Diff(want, got) == "", "%s", cmp.Diff(want, got))
		assert.Equal(t, c.container(t, dockerIO+"many:latest", "one", "echo new >/new; cat /new"), "new")
		assert.Equal(t, h.run(t, "busybox", "echo too"), "too")
		h.do(t, "load", "--input", f.archive("debian"))
		c.handOver(t, "--namespace", "default", "--docker-root", h.dockerRoot)
		assert.Equal(t, c.container(t, dockerIO+"busybox:latest", "two", "echo handed over"), "handed over")
		h.do(t, "rmi", "busybox", "debian")
		h.do(t, "system", "prune", "--all", "--force")
		c.run(t, append(c.cli(), "gc", "--docker-root", h.dockerRoot, "--older-than", "0s", "--yes")...)
		got = c.tree(t, dockerIO+"many:latest")
		assert.Assert(t, cmp.Diff(want, got) == "", "%s", cmp.Diff(want, got))
		assert.Equal(t, c.container(t, dockerIO+"debian:latest", "three", "dpkg --print-architecture"), "amd64")
		c.clear(t)
	})
}

// TestContainerdKill kills containerd, Strata and both, in the middle of an import, and then expects that nothing is lost,
// that everything works, and that nothing stays when all is removed.
func TestContainerdKill(t *testing.T) {
	f := fixtures(t)
	for _, r := range engine.Releases() {
		usr, err := r.Usr(t.Context(), f.cache)
		assert.NilError(t, err)
		t.Run(r.Suite, func(t *testing.T) {
			t.Parallel()
			h := newContainerdHost(t, containerdSetup{usr: usr, backend: "overlay", fs: "ext4", differ: r.Version != "20.10"})
			h.load(t, "many")
			want := manifest(t, f.busybox, f.many)
			for i, victims := range [][]string{{"strata"}, {"containerd"}, {"containerd", "strata"}} {
				for j := range 2 {
					after := time.Duration(100+350*j+20*i) * time.Millisecond
					t.Run(fmt.Sprintf("%s-after-%v", strings.Join(victims, "-and-"), after), func(t *testing.T) {
						h.killDuringImport(t, victims, after)
						got := h.tree(t, dockerIO+"many:latest")
						assert.Assert(t, cmp.Diff(want, got) == "", "%s", cmp.Diff(want, got))
					})
				}
			}
			h.clear(t)
		})
	}
}

// killDuringImport kills services in the middle of an import, starts them again, and imports what was cut off.
func (h *containerdHost) killDuringImport(t *testing.T, victims []string, after time.Duration) {
	t.Helper()
	const image = dockerIO + "debian:latest"
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	cmd := h.Command(ctx, "ctr", "images", "import", "--snapshotter", "strata", fixtures(t).archive("debian"))
	assert.NilError(t, cmd.Start())
	time.Sleep(after)
	for _, v := range victims {
		if v == "strata" {
			assert.NilError(t, h.strata.Kill())
		} else {
			assert.NilError(t, h.containerd.Kill())
		}
	}
	for _, v := range victims {
		if v == "strata" {
			h.startStrata(t)
		} else {
			h.startContainerd(t)
		}
	}
	t.Logf("the import ended with: %v", cmd.Wait())
	assert.NilError(t, ctx.Err(), "it hung")
	h.check(t)
	h.load(t, "debian")
	got, want := h.tree(t, image), manifest(t, fixtures(t).debian)
	assert.Assert(t, cmp.Diff(want, got) == "", "%s", cmp.Diff(want, got))
	h.ctr(t, "images", "rm", "--sync", image)
	h.check(t)
}

// clear removes all images of the namespaces, of default if none is given, and waits until containerd and Strata have nothing left.
func (h *containerdHost) clear(t *testing.T, namespaces ...string) {
	t.Helper()
	if len(namespaces) == 0 {
		namespaces = []string{"default"}
	}
	for _, ns := range namespaces {
		ctr := func(args ...string) string {
			t.Helper()
			return h.ctr(t, append([]string{"--namespace", ns}, args...)...)
		}
		for _, lease := range strings.Fields(ctr("leases", "ls", "-q")) { // of imports that were killed
			ctr("leases", "rm", "--sync", lease)
		}
		if images := ctr("images", "ls", "-q"); images != "" {
			ctr(append([]string{"images", "rm", "--sync"}, strings.Split(images, "\n")...)...)
		}
		ctr("content", "prune", "references")
	}
	assert.Equal(t, len(h.layers(t)), 0, "%v", h.layers(t))
	h.check(t)
}
