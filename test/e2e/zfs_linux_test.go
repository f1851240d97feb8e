package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

// zfsSetup describes a host with a store on a pool and the pool's own tools in the plugin. What lies below the
// store is nothing that an engine could know: the one that is there is enough.
func zfsSetup(t *testing.T) setup {
	t.Helper()
	fixtures(t)
	if _, err := os.Stat("/dev/zfs"); err != nil {
		if os.Getenv("STRATA_TEST_ZFS") != "" {
			t.Fatal(err)
		}
		t.Skip("this kernel has no ZFS; scripts/test zfs runs the test in one that has")
	}
	if driverName() != "strata" {
		t.Skip("only Strata has backends")
	}
	own, err := engine.Own(t.Context())
	assert.NilError(t, err)
	return setup{
		release: own, driver: "strata", fs: "zfs",
		options: []string{"STRATA_BACKEND=zfs", "host.source=/", "zfs.path=/dev/zfs"},
	}
}

// zfsScenarios is what users do all day with the smallest image, as far as a backend has a part in it: where ZFS is
// there are emulated machines that take ten seconds for a container.
func zfsScenarios() []scenario {
	return []scenario{
		{"describe", testDescribe, false},
		{"limit", testLimit, false},
		{"change", testChange, false},
		{"build and save", testBuildSave, false},
		{"kill", testKillIdle, false},
	}
}

// TestZFS runs on a pool, with the tools of the machine in the plugin.
func TestZFS(t *testing.T) {
	h := newHost(t, zfsSetup(t))
	h.install(t)
	h.start(t)
	h.do(t, "load", "--input", fixtures(t).archive("busybox"))
	runScenarios(t, h, zfsScenarios(), false)
	h.prune(t)
	h.awaitDatasets(t, 0)
}

// awaitDatasets waits until there are so many on the pool besides the file system of /var/lib, and no snapshot if that
// is none: dockerd does not wait for the end of a removal.
func (h *host) awaitDatasets(t *testing.T, want int) {
	t.Helper()
	kinds := "filesystem"
	if want == 0 {
		kinds = "all"
	}
	var left string
	for range 60 {
		left = h.inside(t, "zfs", "list", "-H", "-o", "name", "-t", kinds, "-r", h.Pool())
		if strings.Count(left, "\n") == want {
			return
		}
		time.Sleep(time.Second)
	}
	t.Errorf("on the pool are not %d datasets, but:\n%s", want, left)
}

// inside runs a command in the machine, which must succeed, and returns its output.
func (h *host) inside(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := engine.Output(h.Command(t.Context(), name, args...))
	assert.NilError(t, err)
	return out
}

// testDescribe looks for what dockerd tells about a container's layer and about the pool.
func testDescribe(t *testing.T, h *host) {
	id := h.detach(t, "busybox", "true")
	defer h.do(t, "rm", "--force", id)
	var driver struct {
		Name string
		Data map[string]string
	}
	assert.NilError(t, json.Unmarshal([]byte(h.do(t, "inspect", "--format={{json .GraphDriver}}", id)), &driver))
	assert.Equal(t, driver.Name, "strata")
	// The first process of the container has the dataset as its root.
	root := h.inside(t, "findmnt", "--noheadings", "--output=SOURCE", "--target", driver.Data["Mountpoint"])
	assert.Equal(t, driver.Data["Dataset"], root)
	assert.Assert(t, strings.HasPrefix(root, h.Pool()+"/"), "%s", root)
	origin := h.inside(t, "zfs", "get", "-H", "-o", "value", "origin", root)
	assert.Equal(t, driver.Data["Origin"], origin)
	var rows [][2]string
	assert.NilError(t, json.Unmarshal([]byte(h.do(t, "info", "--format={{json .DriverStatus}}")), &rows))
	told := map[string]string{}
	for _, r := range rows {
		told[r[0]] = r[1]
	}
	for name, want := range map[string]string{
		"Backend": "zfs", "Zpool": h.Pool(), "Zpool Health": "ONLINE", "Parent Dataset": h.Pool(),
		"Parent Quota": "no", "Compression": "off",
	} {
		assert.Equal(t, told[name], want, "%s: %v", name, rows)
	}
	for _, name := range []string{"Space Used By Parent", "Space Available"} {
		assert.Assert(t, told[name] != "" && told[name] != "0", "%s: %v", name, rows)
	}
}

// testLimit writes more to a container than it may.
func testLimit(t *testing.T, h *host) {
	out, err := h.try(t, "run", "--rm", "--network=none", "--storage-opt", "size=16M", "busybox", "sh", "-c",
		"for i in 4 8 12 16 20 24; do dd if=/dev/zero of=/big$i bs=1M count=4 2>&1 && sync || exit 7; echo wrote $i; done")
	assert.ErrorContains(t, err, "exit status 7")
	assert.Assert(t, strings.Contains(out, "wrote 8") && !strings.Contains(out, "wrote 20"), "%s", out)
	refused := strings.Contains(out, "Disk quota exceeded") || strings.Contains(out, "No space left on device") // xfs says the latter
	assert.Assert(t, refused, "%s", out)
}

// smallChange changes files of the image "busybox" in every way there is.
const smallChange = `
echo more >> /etc/passwd
chmod 600 /etc/group
rm /bin/seq
rm -r /home; mkdir /home; echo new > /home/new
mv /usr /moved
ln /home/new /link
ln -s target /symlink
mkfifo /fifo
chown 1000:1000 /var
touch /tmp/x; rm /tmp/x
`

func testChange(t *testing.T, h *host) {
	id := h.do(t, "create", "--network=none", "busybox", "sh", "-c", smallChange)
	defer h.do(t, "rm", id)
	h.do(t, "start", "--attach", id)
	want := strings.Split("A /fifo,A /home/new,A /link,A /moved,A /symlink,C /bin,C /etc,C /etc/group,C /etc/passwd,C /home,C /tmp,C /var,D /bin/seq,D /usr", ",")
	assert.DeepEqual(t, h.diff(t, id), want)
	h.do(t, "commit", id, "committed")
	before, after := h.containerTree(t, id), h.tree(t, "committed")
	assert.Assert(t, cmp.Diff(before, after) == "", "%s", cmp.Diff(before, after))
	assert.Assert(t, after["/moved"] != "" && after["/usr"] == "")
}

// testBuildSave builds with both builders, saves, removes, loads and saves again.
func testBuildSave(t *testing.T, h *host) {
	dir := t.TempDir()
	var ids, tags []string
	for i, buildkit := range []bool{false, true} {
		context := buildContext(t, "Dockerfile", fmt.Sprintf("FROM busybox\nCOPY f /copied\nRUN rm /bin/seq && cat /copied > /made%d\n", i), "f", "content\n")
		tags = append(tags, saveTag(i))
		ids = append(ids, h.build(t, buildkit, context, "--tag", tags[i]))
	}
	first, again := filepath.Join(dir, "first"), filepath.Join(dir, "again")
	h.do(t, "save", "--output", first, tags[0], tags[1])
	h.do(t, "rmi", tags[0], tags[1])
	h.do(t, "builder", "prune", "--all", "--force")
	h.do(t, "load", "--input", first)
	assert.Equal(t, h.do(t, "image", "inspect", "--format={{.Id}}", tags[0], tags[1]), strings.Join(ids, "\n"))
	h.do(t, "save", "--output", again, tags[0], tags[1])
	before, after := savedIn(t, first), savedIn(t, again)
	for _, list := range []string{"/index.json", "/manifest.json"} { // in no order
		delete(before, list)
		delete(after, list)
	}
	assert.DeepEqual(t, after, before)
	assert.Equal(t, h.run(t, tags[1], "test ! -e /bin/seq && cat /made1"), "content")
}

// testKillIdle kills what there is to kill while a container runs.
func testKillIdle(t *testing.T, h *host) {
	tree := manifest(t, fixtures(t).busybox)
	id := h.detach(t, "busybox", "true")
	runs := 0
	for _, v := range []victim{killPlugin, killDocker} {
		t.Run(string(v), func(t *testing.T) {
			h.kill(t, v)
			h.revive(t, v)
			got := h.tree(t, "busybox")
			assert.Assert(t, cmp.Diff(tree, got) == "", "%s", cmp.Diff(tree, got))
			h.do(t, "start", id)
			runs++
			assert.Equal(t, h.do(t, "exec", id, "sh", "-c", "echo >> /log; cat /log | wc -l"), strconv.Itoa(runs))
			h.checkStore(t)
		})
	}
	h.do(t, "rm", "--force", id)
}

// TestZFSAdopt moves from dockerd's own zfs driver to Strata and back.
func TestZFSAdopt(t *testing.T) {
	s := zfsSetup(t)
	// What was not applied here cannot be given back byte for byte: dockerd goes on to use its own records for that.
	s.options = append(s.options, "STRATA_EXACT_DIFFS=false")
	h := newHost(t, s)
	f := fixtures(t)
	h.startWith(t, "zfs")
	h.do(t, "load", "--input", f.archive("busybox"))
	id := h.do(t, "create", "--network=none", "busybox", "sh", "-c", "rm -f /etc/group; date >> /old; wc -l /old")
	assert.Equal(t, h.do(t, "start", "--attach", id), "1 /old")
	h.do(t, "commit", id, "old")
	images, diff := h.listImages(t), h.diff(t, id)
	saved := filepath.Join(t.TempDir(), "before")
	h.do(t, "save", "--output", saved, "old")
	h.do(t, "plugin", "create", "strata", f.plugins[0])
	h.enable(t, "strata")
	h.stop(t)

	h.start(t)
	h.adopt(t)
	h.stop(t)
	h.carryOver(t)
	h.start(t)
	assert.DeepEqual(t, h.listImages(t), images)
	t.Run("images", func(t *testing.T) {
		got, want := h.tree(t, "busybox"), manifest(t, f.busybox)
		assert.Assert(t, cmp.Diff(want, got) == "", "%s", cmp.Diff(want, got))
		assert.Equal(t, h.run(t, "old", "test ! -e /etc/group && wc -l /old"), "1 /old")
		again := filepath.Join(t.TempDir(), "after")
		h.do(t, "save", "--output", again, "old")
		assert.DeepEqual(t, savedIn(t, again), savedIn(t, saved))
	})
	t.Run("container", func(t *testing.T) {
		assert.DeepEqual(t, h.diff(t, id), diff)
		assert.Equal(t, h.do(t, "start", "--attach", id), "2 /old")
		h.do(t, "commit", id, "new")
		assert.Equal(t, h.run(t, "new", "wc -l /old"), "2 /old")
	})
	h.checkStore(t)
	h.do(t, "rm", id)
	h.do(t, "rmi", "new", "old")
	h.awaitDatasets(t, 1)
	h.checkStore(t)
	h.stop(t)

	h.startWith(t, "zfs")
	assert.Equal(t, h.run(t, "busybox", "cat /etc/group | wc -l"), "2")
	h.awaitDatasets(t, 1)
}

// diff returns what docker diff prints, sorted: drivers have no common order.
func (h *host) diff(t *testing.T, id string) []string {
	t.Helper()
	return sorted(strings.Split(h.do(t, "diff", id), "\n"))
}

// adopt takes in what dockerd's own driver has left, and nothing else.
func (h *host) adopt(t *testing.T) {
	t.Helper()
	assert.Equal(t, h.do(t, "images", "--quiet"), "")
	datasets := strings.Split(h.inside(t, "zfs", "list", "-H", "-o", "name", "-r", h.Pool()), "\n")[1:]
	for i := range datasets {
		datasets[i] = strings.TrimPrefix(datasets[i], h.Pool()+"/")
	}
	for _, yes := range []bool{false, true} {
		args := []string{"adopt", "--json"}
		if yes {
			args = append(args, "--yes")
		}
		out, err := h.cli(t, args...)
		assert.NilError(t, err)
		var list []struct {
			Name    string `json:"name"`
			Adopted bool   `json:"adopted"`
		}
		assert.NilError(t, json.Unmarshal([]byte(out), &list), "%s", out)
		var names []string
		for _, l := range list {
			assert.Equal(t, l.Adopted, yes)
			names = append(names, l.Name)
		}
		assert.DeepEqual(t, sorted(names), sorted(datasets))
	}
	assert.DeepEqual(t, sorted(h.layers(t)), sorted(datasets))
	h.checkStore(t)
}

// carryOver gives Docker's records of images and containers to the other driver, as docs/backends/zfs.md says.
func (h *host) carryOver(t *testing.T) {
	t.Helper()
	h.inside(t, "sh", "-euc", `cd /var/lib/docker
cp -aT image/zfs image/strata
sed -i 's/"Driver":"zfs"/"Driver":"strata"/' containers/*/config.v2.json`)
}
