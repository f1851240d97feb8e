package backendtest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/internal/failpoint"
	"strata/backend/internal/loopfs"
	"strata/backend/store"
)

// The environment by which a test process tells a copy of itself to play the part of the store
// that crashes.
const (
	envCrashRoot    = "STRATA_CRASH_ROOT"    // the store's root; set in the copy only
	envCrashJournal = "STRATA_CRASH_JOURNAL" // file the copy notes its progress in
	envCrashPoint   = "STRATA_CRASH_POINT"   // KIND NAME N: what happens when failpoint NAME is passed for the N-th time
	envCrashOpen    = "STRATA_CRASH_OPEN"    // set if the copy shall only open the store and close it
)

// minFailpoints is how many different failpoints the script has to pass for the suite to mean
// anything.
const minFailpoints = 10

// childTimeout bounds one run of the script; it takes about a second, in an emulated guest minutes.
const childTimeout = 10 * time.Minute

// Crash runs a script of operations in a copy of the test process, once for each time it passes
// a failpoint, and kills it there. Then it opens the store again: Check finds nothing, every
// acknowledged layer gives back the same bytes, what was not acknowledged is gone or usable, and
// no mount, directory or descriptor is left. The same again with an error in place of the kill,
// and with kills during the recovery. It skips the test if it does not run as root.
//
// The copy runs the same test by name, so Crash must be reached without side effects before it.
func Crash(t *testing.T, f Factory) {
	t.Helper()
	if root := os.Getenv(envCrashRoot); root != "" {
		os.Exit(crashChild(f, root))
	}
	c := crashSuite{f: f, dir: loopfs.New(t, f.FS, suiteSize, f.MountOptions)}
	c.empty = c.emptyHome(t)
	points := c.trace(t, nil)
	t.Logf("%d failpoints, %d different", len(points), len(distinct(points)))
	assert.Assert(t, len(distinct(points)) >= minFailpoints, "the script passes only %d failpoints: %q", len(distinct(points)), distinct(points))
	switch {
	case f.Slow:
		points = slices.DeleteFunc(points, func(p point) bool { return p.n > 1 })
	case testing.Short():
		points = sample(points, 2)
	case !f.Thorough:
		points = sample(points, 4)
	}
	for _, kind := range []string{"kill", "error"} {
		for _, p := range points {
			if f.Slow && kind == "error" && !strings.HasPrefix(p.name, f.Backend+".") {
				continue
			}
			t.Run(kind+"/"+p.String(), func(t *testing.T) { c.run(t, kind, p) })
		}
	}
	worst := worstMoments(points)
	if f.Slow || testing.Short() {
		worst = worst[:1]
	}
	for _, p := range worst {
		t.Run("recovery/"+p.String(), func(t *testing.T) {
			c.recovery(t, func(root, journal string) { c.child(t, root, journal, armed("kill", p)) })
		})
	}
	t.Run("anew/", func(t *testing.T) { c.recovery(t, func(root, _ string) { foundOther(t, root) }) })
}

// point is the n-th time that a failpoint is passed, counted from 1.
type point struct {
	name string
	n    int
}

func (p point) String() string { return fmt.Sprintf("%s.%d", p.name, p.n) }

func distinct(points []point) (names []string) {
	seen := map[string]bool{}
	for _, p := range points {
		if !seen[p.name] {
			seen[p.name] = true
			names = append(names, p.name)
		}
	}
	return names
}

// sample keeps at most n points of each name, n at least 2: the first, the last, and some between.
func sample(points []point, n int) (kept []point) {
	last := map[string]int{}
	for _, p := range points {
		last[p.name] = p.n
	}
	for _, p := range points {
		for i := range n {
			if p.n == 1+i*(last[p.name]-1)/(n-1) {
				kept = append(kept, p)
				break
			}
		}
	}
	return kept
}

// worstMoments picks the points after which recovery has most to do: in the middle of filling,
// cloning and removing layers.
func worstMoments(points []point) []point {
	var worst []point
	for _, operation := range []string{".apply.", ".clone.", ".remove.", ".create."} {
		for _, p := range points {
			if strings.Contains(p.name, operation) && p.n == 1 {
				worst = append(worst, p)
				break
			}
		}
	}
	return worst
}

type crashSuite struct {
	f     Factory
	dir   string
	empty []string // what a backend keeps in its directory when there are no layers
}

// place makes a directory for one run, which is removed in the end.
func (c crashSuite) place(t *testing.T) (root, journal string) {
	t.Helper()
	dir, err := os.MkdirTemp(c.dir, "run")
	assert.NilError(t, err)
	t.Cleanup(func() {
		if left, err := loopfs.MountsBelow(dir); err != nil || len(left) > 0 {
			t.Errorf("mounts left: %q, %v", left, err)
			return
		}
		assert.Check(t, os.RemoveAll(dir))
	})
	return filepath.Join(dir, "store"), filepath.Join(dir, "journal")
}

// child runs the script in a copy of this process. It reports whether the copy was killed.
func (c crashSuite) child(t *testing.T, root, journal string, environment ...string) (killed bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), childTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run="+pattern(c.testName(t)), "-test.count=1")
	// The race detector lets each process sleep for a second at its end, lest it miss a report; ours have ended all they started.
	cmd.Env = append(os.Environ(), append(environment, "GORACE=atexit_sleep_ms=0", envCrashRoot+"="+root, envCrashJournal+"="+journal)...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status, ok := exit.Sys().(syscall.WaitStatus)
		if ok && status.Signaled() && status.Signal() == syscall.SIGKILL && ctx.Err() == nil {
			return true
		}
	}
	assert.NilError(t, err, "script: %s", out)
	return false
}

// testName is the name of the test that called Crash.
func (c crashSuite) testName(t *testing.T) string {
	for _, part := range []string{"/kill/", "/error/", "/recovery/", "/anew/"} {
		if name, _, found := strings.Cut(t.Name(), part); found {
			return name
		}
	}
	return t.Name()
}

// pattern makes a test's name an argument for -test.run.
func pattern(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// trace runs the script undisturbed and lists the failpoints it passes.
func (c crashSuite) trace(t *testing.T, prepare func(root, journal string), environment ...string) []point {
	t.Helper()
	root, journal := c.place(t)
	if prepare != nil {
		prepare(root, journal)
	}
	file := filepath.Join(filepath.Dir(root), "trace")
	assert.Assert(t, !c.child(t, root, journal, append(environment, "STRATA_FAILPOINT_TRACE="+file)...))
	text, err := os.ReadFile(file)
	if !errors.Is(err, os.ErrNotExist) { // it is not there if no failpoint was passed
		assert.NilError(t, err)
	}
	names := strings.Fields(string(text))
	points := make([]point, len(names))
	count := map[string]int{}
	for i, name := range names {
		count[name]++
		points[i] = point{name, count[name]}
	}
	c.verify(t, root, journal)
	return points
}

func armed(kind string, p point) string {
	return fmt.Sprintf("%s=%s %s %d", envCrashPoint, kind, p.name, p.n)
}

func (c crashSuite) run(t *testing.T, kind string, p point) {
	if c.f.Slow {
		t.Parallel()
	}
	root, journal := c.place(t)
	killed := c.child(t, root, journal, armed(kind, p))
	if kind == "kill" && !killed && p.n == 1 {
		t.Error("the failpoint was not passed again")
	}
	c.verify(t, root, journal)
}

// recovery kills the process that opens a prepared store at every failpoint it passes.
func (c crashSuite) recovery(t *testing.T, prepare func(root, journal string)) {
	for _, q := range c.trace(t, prepare, envCrashOpen+"=yes") {
		root, journal := c.place(t)
		prepare(root, journal)
		c.child(t, root, journal, envCrashOpen+"=yes", armed("kill", q))
		c.verify(t, root, journal)
	}
}

// foundOther makes an empty store of another backend and another promise, which is made anew when it is opened.
func foundOther(t *testing.T, root string) {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Root: root, Backend: "other", New: NewDir})
	assert.NilError(t, err)
	assert.NilError(t, s.Close(t.Context()))
}

// verify opens the store that a script left and holds it to the script's journal.
func (c crashSuite) verify(t *testing.T, root, journal string) {
	t.Helper()
	before := NewLedger(t, root)
	known := readJournal(t, journal)
	r := &rig{t: t, f: c.f, dir: filepath.Dir(root)}
	r.cfg = store.Config{Root: root, Backend: c.f.Backend, ExactDiffs: true, New: r.construct}
	r.open()
	t.Cleanup(r.abandon)
	assert.NilError(t, awaitDeletions(t.Context(), r.store))
	r.checkClean()
	r.checkOnlyCountedMounts() // first: what follows mounts and unmounts
	r.checkLayers(known)
	if lister, ok := r.back.(backend.Lister); ok {
		ids, err := lister.List(t.Context())
		assert.NilError(t, err)
		assert.Equal(t, len(ids), r.withData(), "on disk: %q", ids)
	}
	// It can be worked with.
	r.fill("afterwards", "", crashArchive(9))
	assert.Assert(t, bytes.Equal(r.diff("afterwards", ""), crashArchive(9)))
	assert.NilError(t, removeAll(t.Context(), r.store))
	info, err := r.store.Info(t.Context())
	assert.NilError(t, err)
	r.close()
	for _, dir := range []string{r.env.Active, filepath.Join(info.MountDir, ".own")} {
		_ = os.Remove(dir) // there may be none, and it has to be empty: see the next line
	}
	if left, err := os.ReadDir(info.MountDir); err != nil || len(left) > 0 {
		t.Errorf("mount points left: %v, %v", left, err)
	}
	left := surplus(c.empty, relative(r.env.Home, r.listHome()), "")
	assert.Equal(t, len(left), 0, "left in the backend's directory: %q", left)
	before.mounts = nil // those the script left are gone now
	if !c.f.Slow {      // else others open files meanwhile
		before.Check(t)
	}
}

// emptyHome lists the directory of a backend all of whose layers were removed.
func (c crashSuite) emptyHome(t *testing.T) []string {
	t.Helper()
	root, _ := c.place(t)
	r := &rig{t: t, f: c.f, dir: filepath.Dir(root)}
	r.cfg = store.Config{Root: root, Backend: c.f.Backend, New: r.construct}
	r.open()
	r.create("first", "")
	assert.NilError(t, removeAll(t.Context(), r.store))
	r.close()
	return relative(r.env.Home, r.listHome())
}

func relative(dir string, paths []string) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = strings.TrimPrefix(p, dir)
	}
	return out
}

// checkLayers compares the store with what the script's journal says of it.
func (r *rig) checkLayers(known map[string]*crashLayer) {
	r.t.Helper()
	for name, k := range known {
		if k.becomes == "" {
			continue
		}
		_, errOld := r.store.Stat(r.ctx(), name)
		_, errNew := r.store.Stat(r.ctx(), k.becomes)
		assert.Assert(r.t, (errOld == nil) != (errNew == nil), "layer %s was being renamed to %s: %v, %v", name, k.becomes, errOld, errNew)
	}
	for _, name := range r.names() {
		assert.Assert(r.t, known[name] != nil && known[name].fate != fateAbsent, "layer %s should not be there", name)
	}
	for name, k := range known {
		info, err := r.store.Stat(r.ctx(), name)
		switch {
		case errdefs.IsNotFound(err):
			assert.Assert(r.t, k.fate != fatePresent, "layer %s was acknowledged and is gone", name)
			continue
		case err != nil:
			r.t.Errorf("stat %s: %v", name, err)
			continue
		}
		assert.Equal(r.t, info.State, store.StateReady, "layer %s", name)
		assert.Assert(r.t, info.Mounts == 0 || !slices.Contains(neverMounted, name), "layer %s counts a mount of the store's own", name)
		sum := digest(r.diff(name, info.Parent))
		assert.Assert(r.t, k.mayBe(sum), "content of layer %s: diff has digest %s, want %s or %s", name, sum, k.digest, k.after)
		r.tree(name)
	}
}

// withData counts the layers that have data of their own.
func (r *rig) withData() (n int) {
	for _, name := range r.names() {
		if !r.stat(name).Link {
			n++
		}
	}
	return n
}

// checkOnlyCountedMounts: what is mounted below the store belongs to a layer that says so.
func (r *rig) checkOnlyCountedMounts() {
	r.t.Helper()
	info, err := r.store.Info(r.ctx())
	assert.NilError(r.t, err)
	counted := map[string]bool{info.MountDir: true, r.cfg.Root: true}
	for _, name := range r.names() {
		i := r.stat(name)
		if i.Mounts > 0 {
			counted[i.MountDir] = true
		}
		if i.Mounts > 0 || i.Lent {
			l := r.layer(name)
			counted[filepath.Join(r.env.Active, l.ID)] = true
			for _, p := range l.Parents {
				counted[filepath.Join(r.env.Active, p.ID)] = true
			}
		}
	}
	mounts, err := loopfs.MountsBelow(r.cfg.Root)
	assert.NilError(r.t, err)
	for _, m := range mounts {
		assert.Assert(r.t, counted[m], "%s is mounted, and no layer counts it", m)
	}
}

// fate is what a journal lets one expect of a layer.
type fate int

const (
	fateOpen    fate = iota // an operation on it did not succeed: gone, or usable
	fatePresent             // acknowledged
	fateAbsent              // its removal was acknowledged
)

type crashLayer struct {
	fate   fate
	open   bool   // the last operation on it did not succeed
	digest string // of its diff when it was last acknowledged, "" if not known
	after  string // operation.after of the last operation on it
	// becomes is the name that an acknowledged layer was being given when the script ended.
	becomes string
}

// rename takes note of what a begun or finished operation says of a layer's name.
func rename(known map[string]*crashLayer, name, as string, done bool) {
	k := known[name]
	if done {
		known[as] = &crashLayer{fate: fatePresent}
		known[name] = &crashLayer{fate: fateAbsent}
		return
	}
	known[as] = &crashLayer{open: true, after: anyContent}
	known[name] = &crashLayer{open: true, after: anyContent}
	if k.fate == fatePresent {
		known[name].becomes = as
	}
}

// acknowledge takes note of what a finished operation, or a look at the layer after it, says of
// its content.
func (k *crashLayer) acknowledge(t *testing.T, name, content string) {
	t.Helper()
	looked := k.fate == fatePresent
	k.fate, k.open = fatePresent, false
	switch {
	case content == sameContent:
	case content == anyContent:
		k.digest = ""
	case looked && k.digest != "":
		assert.Equal(t, content, k.digest, "content of layer %s before the crash", name)
	default:
		k.digest = content
	}
}

// mayBe reports whether the layer's diff may have this digest: the acknowledged one or, while an
// operation is open, the one from before it or the one from after it. Nothing between the two.
func (k *crashLayer) mayBe(sum string) bool {
	if k.digest == sum || k.fate == fatePresent && k.digest == "" {
		return true
	}
	return k.open && (k.after == anyContent || k.after == sum)
}

// readJournal works out what must be true from what the script noted before it ended.
func readJournal(t *testing.T, path string) map[string]*crashLayer {
	t.Helper()
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // killed while it opened the store
	}
	assert.NilError(t, err)
	defer f.Close()
	known := map[string]*crashLayer{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		words := strings.Fields(lines.Text())
		assert.Equal(t, len(words), 3, "journal line %q", lines.Text())
		event, name, detail := words[0], words[1], words[2]
		k := known[name]
		if k == nil {
			k = &crashLayer{}
			known[name] = k
		}
		switch event {
		case "begin":
			kind, after, _ := strings.Cut(detail, ":")
			if kind == "read" {
				break
			}
			if kind == "rename" {
				rename(known, name, after, false)
				break
			}
			if !k.open || k.after != anyContent { // else that is still all one knows
				k.after = after
			}
			k.open = true
			if kind != "alter" {
				k.fate = fateOpen
			}
		case "present":
			k.acknowledge(t, name, detail)
		case "renamed":
			rename(known, name, detail, true)
		case "absent":
			k.fate = fateAbsent
		}
	}
	return known
}

// armCrashPoint arms what envCrashPoint says.
func armCrashPoint() error {
	spec := strings.Fields(os.Getenv(envCrashPoint))
	if len(spec) == 0 {
		return nil
	}
	kind, name := spec[0], spec[1]
	n, err := strconv.Atoi(spec[2])
	if err != nil {
		return err
	}
	failpoint.Arm(name, newCountdown(n, func() error {
		if kind == "kill" {
			return failpoint.Kill()
		}
		return fmt.Errorf("%s: %w", name, failpoint.ErrInjected)
	}))
	return nil
}
