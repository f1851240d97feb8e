package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gotest.tools/v3/assert"

	"strata/test/e2e/engine"
)

// A scenario is something a user does. Scenarios of one table run in order on the same host; each
// leaves images behind for the last ones but depends on none of the others.
type scenario struct {
	name string
	test func(t *testing.T, h *host)
	long bool // left out for the backends that copy whole trees
}

// imageScenarios is what users do all day. None of them kills anything.
func imageScenarios() []scenario {
	return []scenario{
		{"load", testLoad, false},
		{"load marks", testLoadMarks, false},
		{"load debian", testLoadDebian, true},
		{"build classic", func(t *testing.T, h *host) { testBuild(t, h, false) }, false},
		{"build buildkit", func(t *testing.T, h *host) { testBuild(t, h, true) }, false},
		{"60 layers classic", func(t *testing.T, h *host) { testDeepImage(t, h, false) }, true},
		{"60 layers buildkit", func(t *testing.T, h *host) { testDeepImage(t, h, true) }, true},
		{"20 containers", testParallelRuns, false},
		{"commit", testCommit, false},
		{"odd layer", testOddLayer, false},
		{"diff", testDiff, false},
		{"touched", testTouched, false},
		{"cp", testCopy, false},
		{"save and load", testSaveLoad, false},
		{"push and pull", testPushPull, false},
		{"restart", testRestart, false},
	}
}

func runScenarios(t *testing.T, h *host, all []scenario, short bool) {
	t.Helper()
	for _, s := range all {
		if short && s.long {
			continue
		}
		t.Run(strings.ReplaceAll(s.name, " ", "-"), func(t *testing.T) {
			s.test(t, h)
			h.checkStore(t)
		})
	}
}

func testLoad(t *testing.T, h *host) {
	f := fixtures(t)
	h.do(t, "load", "--input", f.archive("many"))
	got := h.tree(t, "many")
	want := manifest(t, f.busybox, f.many)
	assert.Assert(t, cmp.Diff(want, got) == "", "%s", cmp.Diff(want, got))
	assert.Equal(t, h.run(t, "many", "find /many -type f | wc -l"), "5000")
}

func testLoadDebian(t *testing.T, h *host) {
	f := fixtures(t)
	h.do(t, "load", "--input", f.archive("debian"))
	got := h.tree(t, "debian")
	// The root's own directory entries, which Docker's init layer replaces, are not compared.
	want := manifest(t, f.debian)
	assert.Assert(t, cmp.Diff(want, got) == "", "%s", cmp.Diff(want, got))
	assert.Equal(t, h.run(t, "debian", "python3 -c 'print(6*7)'; dpkg --verify coreutils"), "42")
}

const multiStage = `FROM busybox AS first
RUN mkdir -p /out/deep/er && echo made > /out/deep/er/file && ln -s er /out/deep/link
RUN rm -rf /home && mkdir -m 700 /home && echo new > /home/new
COPY sub /out/sub

FROM busybox AS second
RUN echo second > /second
COPY --from=first /out /out
RUN rm /out/sub/gone && chown 1000:1000 /out/sub/kept

FROM first
COPY --from=second /out /copied
ADD arch.tar /added
RUN test ! -e /copied/sub/gone && test -e /out/sub/gone
USER 1000
CMD ["cat", "/copied/deep/link/file"]
`

func testBuild(t *testing.T, h *host, buildkit bool) {
	f := fixtures(t)
	h.do(t, "load", "--input", f.archive("busybox"))
	dockerfile, owner, added := multiStage, "1000:1000", 150
	if h.subIDs && !buildkit {
		// The classic builder cannot copy between stages what is not root's: it maps owners twice.
		dockerfile, owner = strings.Replace(dockerfile, " && chown 1000:1000 /out/sub/kept", "", 1), "0:0"
	}
	if h.subIDs && buildkit {
		// BuildKit unpacks archives without mapping owners at all. The built-in drivers then leave
		// the files out of the image's layer without a word; Strata refuses to.
		dockerfile, added = strings.Replace(dockerfile, "ADD arch.tar", "COPY sub", 1), 2
	}
	dir := buildContext(t, "Dockerfile", dockerfile, "sub/kept", "kept", "sub/gone", "gone")
	_, err := engine.WriteLayer(filepath.Join(dir, "arch.tar"), engine.FillMany("x", 150))
	assert.NilError(t, err)
	tag := fmt.Sprintf("built:%t", buildkit)
	h.build(t, buildkit, dir, "--tag", tag)
	assert.Equal(t, h.do(t, "run", "--rm", "--network=none", tag), "made")
	assert.Equal(t, h.run(t, tag, "find /added -type f | wc -l; stat -c %a /home; id -u"), fmt.Sprintf("%d\n700\n1000", added))
	got := h.tree(t, tag)
	for path, want := range map[string]string{
		"/home": "5 700 0:0", "/copied/deep/link": "2 777 0:0 -> er", "/copied/sub/gone": "",
	} {
		assert.Equal(t, got[path], want, "%s", path)
	}
	assert.Assert(t, strings.Contains(got["/copied/sub/kept"], " 644 "+owner+" "), "%s", got["/copied/sub/kept"])
	// A second build must come from the cache: the same image.
	again := h.build(t, buildkit, dir)
	assert.Equal(t, again, h.imageID(t, tag))
}

func testDeepImage(t *testing.T, h *host, buildkit bool) {
	h.do(t, "load", "--input", fixtures(t).archive("busybox"))
	lines := []string{"FROM busybox"}
	pairs := []string{"Dockerfile", ""}
	for i := 1; i < 60; i++ {
		pairs = append(pairs, fmt.Sprintf("f%d", i), fmt.Sprintln(i))
		if i%20 == 0 {
			lines = append(lines, fmt.Sprintf("RUN rm /deep/f%d && echo %d > /deep/ran%d", i-1, i, i))
			continue
		}
		lines = append(lines, fmt.Sprintf("COPY f%d /deep/f%d", i, i))
	}
	pairs[1] = strings.Join(lines, "\n") + "\n"
	tag := fmt.Sprintf("deep:%t", buildkit)
	h.build(t, buildkit, buildContext(t, pairs...), "--tag", tag)
	assert.Equal(t, h.do(t, "image", "inspect", "--format={{len .RootFS.Layers}}", tag), "60")
	assert.Equal(t, h.run(t, tag, "cat /deep/* | sort -n | md5sum; ls /deep | wc -l"),
		h.run(t, "busybox", "seq 1 59 | grep -vx -e 19 -e 39 | md5sum; echo 57"))
}

func testParallelRuns(t *testing.T, h *host) {
	h.do(t, "load", "--input", fixtures(t).archive("many"))
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			script := fmt.Sprintf("echo %d > /mine; rm -r /many/d00%d; find /many -type f | wc -l; cat /mine", i, i%10)
			out, err := h.try(t, "run", "--rm", "--network=none", "many", "sh", "-c", script)
			assert.Check(t, err)
			assert.Check(t, out == fmt.Sprintf("4900\n%d", i), "container %d: %q", i, out)
		})
	}
	wg.Wait()
}

// changeScript changes files of the image "many" in every way there is; changed is what
// `docker diff` is to say about it.
const changeScript = `
echo more >> /many/d001/f00100
chmod 600 /many/d001/f00101
rm /many/d001/f00102
rm -r /many/d002
rm -r /many/d003; mkdir /many/d003; echo new > /many/d003/new
mv /many/d004 /moved
ln -s target /new-link
mkfifo /fifo
chown 1000:1000 /etc/passwd
touch /tmp/x; rm /tmp/x
`

func testDiff(t *testing.T, h *host) {
	h.do(t, "load", "--input", fixtures(t).archive("many"))
	id := h.do(t, "create", "--network=none", "many", "sh", "-c", changeScript)
	defer h.do(t, "rm", id)
	h.do(t, "start", "--attach", id)
	var got []string
	old := 0
	for line := range strings.Lines(h.do(t, "diff", id)) {
		line = strings.TrimSpace(line)
		// Of the two directories that were moved and replaced, count what they held.
		if strings.HasPrefix(line, "A /moved/f") || strings.HasPrefix(line, "D /many/d003/f") {
			old++
			continue
		}
		got = append(got, line)
	}
	want := []string{
		"C /etc", "C /etc/passwd", "C /many", "C /many/d001", "C /many/d001/f00100", "C /many/d001/f00101",
		"D /many/d001/f00102", "D /many/d002", "C /many/d003", "A /many/d003/new", "D /many/d004",
		"A /moved", "A /fifo", "A /new-link",
	}
	if h.strata() {
		want = append(want, "C /tmp") // whose time has changed, at which Docker's own drivers do not look here
	}
	assert.Assert(t, cmp.Diff(sorted(want), sorted(got)) == "", "%s", cmp.Diff(sorted(want), sorted(got)))
	assert.Equal(t, old, 200)
}

func testCommit(t *testing.T, h *host) {
	h.do(t, "load", "--input", fixtures(t).archive("many"))
	id := h.do(t, "create", "--network=none", "many", "sh", "-c", changeScript)
	defer h.do(t, "rm", id)
	h.do(t, "start", "--attach", id)
	h.do(t, "commit", "--change", "CMD true", id, "committed")
	want, got := h.containerTree(t, id), h.tree(t, "committed")
	assert.Assert(t, cmp.Diff(want, got) == "", "%s", cmp.Diff(want, got))
	// And while the container runs.
	running := h.detach(t, "many", "echo one > /one; echo two > /many/two")
	defer h.do(t, "rm", "--force", running)
	h.do(t, "commit", running, "committed:running")
	assert.Equal(t, h.run(t, "committed:running", "cat /one /many/two"), "one\ntwo")
}

// testExport runs after all else: see containerTree.
func testExport(t *testing.T, h *host) {
	h.do(t, "load", "--input", fixtures(t).archive("many"))
	id := h.do(t, "create", "--network=none", "many", "sh", "-c", changeScript)
	defer h.do(t, "rm", id)
	h.do(t, "start", "--attach", id)
	want, got := h.containerTree(t, id), h.manifestOf(t, "export", id)
	assert.Assert(t, cmp.Diff(want, got) == "", "%s", cmp.Diff(want, got))
	assert.Assert(t, got["/many/d003/new"] != "" && got["/many/d002"] == "")
}

func testCopy(t *testing.T, h *host) {
	h.do(t, "load", "--input", fixtures(t).archive("busybox"))
	dir := t.TempDir()
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "in"), []byte("content"), 0o640))
	id := h.do(t, "run", "--detach", "--network=none", "busybox", "sleep", "600")
	defer h.do(t, "rm", "--force", id)
	for _, state := range []string{"running", "stopped"} {
		h.do(t, "cp", filepath.Join(dir, "in"), id+":/home/"+state)
		out := filepath.Join(dir, state)
		h.do(t, "cp", id+":/home/"+state, out)
		b, err := os.ReadFile(out)
		assert.NilError(t, err)
		assert.Equal(t, string(b), "content")
		if state == "running" {
			assert.Equal(t, h.do(t, "exec", id, "cat", "/home/running"), "content")
			h.do(t, "kill", id)
		}
	}
	// Copies go through the container's own layer.
	assert.Assert(t, strings.Contains(h.do(t, "diff", id), "A /home/stopped"))
}

// testSaveLoad saves what the scenarios before made, removes it, loads it and saves it again: all
// IDs and all layer tars must be the same.
func testSaveLoad(t *testing.T, h *host) {
	f := fixtures(t)
	dir := t.TempDir()
	h.do(t, "load", "--input", f.archive("many"))
	built := h.build(t, true, buildContext(t, "Dockerfile", "FROM many\nRUN rm -r /many/d00*; echo a > /a\nCOPY b /b\n", "b", "b"))
	classic := h.build(t, false, buildContext(t, "Dockerfile", "FROM many\nRUN rm -r /many/d01*; echo c > /c\nCOPY d /d\n", "d", "d"))
	ids := []string{h.imageID(t, "many"), built, classic}
	var layers []string
	for i, id := range ids {
		h.do(t, "tag", id, saveTag(i))
		h.do(t, "save", "--output", filepath.Join(dir, saveTag(i)), saveTag(i))
		layers = append(layers, h.rootFS(t, id))
	}
	h.do(t, "system", "prune", "--all", "--force")
	for i, id := range ids {
		first, second := filepath.Join(dir, saveTag(i)), filepath.Join(dir, "again-"+saveTag(i))
		h.do(t, "load", "--input", first)
		assert.Equal(t, h.imageID(t, saveTag(i)), id)
		assert.Equal(t, h.rootFS(t, id), layers[i])
		h.do(t, "save", "--output", second, saveTag(i))
		assert.DeepEqual(t, savedIn(t, first), savedIn(t, second))
	}
	assert.Equal(t, h.run(t, saveTag(1), "cat /a /b; find /many -type f | wc -l"), "a\nb4000")
}

func saveTag(i int) string { return fmt.Sprintf("saved:%d", i) }

// rootFS lists the digests of an image's layer tars.
func (h *host) rootFS(t *testing.T, image string) string {
	t.Helper()
	return h.do(t, "image", "inspect", "--format={{json .RootFS}}", image)
}

// savedIn lists what an archive holds: names, lengths and digests, without the times of saving.
func savedIn(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	assert.NilError(t, err)
	defer func() { assert.NilError(t, f.Close()) }()
	m, err := engine.ReadManifest(f)
	assert.NilError(t, err)
	members := make(map[string]string)
	for name, line := range m {
		if fields := strings.Fields(line); len(fields) == 6 {
			members[name] = fields[4] + " " + fields[5]
		}
	}
	assert.Assert(t, len(members) > 0)
	return members
}

func testPushPull(t *testing.T, h *host) {
	r := registry(t)
	h.do(t, "load", "--input", fixtures(t).archive("many"))
	for _, buildkit := range []bool{false, true} {
		tag := fmt.Sprintf("%s/pushed:%t", r.Addr, buildkit)
		dir := buildContext(t, "Dockerfile", fmt.Sprintf("FROM many\nRUN echo %t > /pushed\n", buildkit))
		id := h.build(t, buildkit, dir, "--tag", tag)
		want := h.tree(t, tag)
		h.do(t, "push", "--quiet", tag)
		h.do(t, "rmi", "--force", id)
		h.do(t, "pull", "--quiet", tag)
		assert.Equal(t, h.imageID(t, tag), id)
		got := h.tree(t, tag)
		assert.Assert(t, cmp.Diff(want, got) == "", "%s", cmp.Diff(want, got))
	}
}

// registry starts a registry for the test.
func registry(t *testing.T) *engine.Registry {
	t.Helper()
	r, err := engine.StartRegistry(t.Context())
	assert.NilError(t, err)
	t.Cleanup(func() { assert.Check(t, r.Close()) })
	return r
}

// testRestart stops the daemon, which stops its containers, and starts it again.
func testRestart(t *testing.T, h *host) {
	h.do(t, "load", "--input", fixtures(t).archive("many"))
	id := h.detach(t, "many", "echo kept > /kept")
	defer h.do(t, "rm", "--force", id)
	before := h.listImages(t)
	h.restart(t)
	assert.DeepEqual(t, h.listImages(t), before)
	h.do(t, "start", id)
	assert.Equal(t, h.do(t, "exec", id, "sh", "-c", "cat /kept; find /many -type f | wc -l"), "kept\n5000")
}
