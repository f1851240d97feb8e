package backendtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gotest.tools/v3/assert"

	"strata/backend/store"
)

// accessRows are about who reaches the files of mounted layers.
func accessRows() []row {
	return []row{
		{name: "a container's root reaches its own layers only", run: reach},
		{name: "gates survive a reopen", run: gatesSurvive},
	}
}

// aProgram is what nobody but those whose layer it is may reach: it gives who runs it the rights of its owner.
func aProgram() Step { return CreateFile("su", []byte("program"), 0o755|modeSetuid) }

// reads tells whether the root of the containers whose owners are stored from first on can read a file.
func reads(r *rig, first uint32, path string) bool {
	r.t.Helper()
	rel, err := filepath.Rel(r.dir, path)
	assert.NilError(r.t, err)
	text, err := asRoot(r.ctx(), r.dir, shifted(first), `cat "$0"`, rel)
	assert.Assert(r.t, err == nil || strings.Contains(text, "Permission denied"), "%s: %v", text, err)
	return err == nil
}

// reader tells whether such a root can read the program in a directory.
func reader(r *rig, first uint32, dir string) bool {
	r.t.Helper()
	return reads(r, first, filepath.Join(dir, "su"))
}

// access returns the modes and groups of the directories above the mounts.
func access(r *rig, dirs ...string) (all []string) {
	r.t.Helper()
	for _, dir := range dirs {
		fi, err := os.Stat(dir)
		assert.NilError(r.t, err)
		in, err := inodeOf(fi)
		assert.NilError(r.t, err)
		all = append(all, fi.Mode().Perm().String()+" "+fmt.Sprintf("%d:%d", in.uid, in.gid))
	}
	return all
}

func reach(r *rig) {
	const a, b = 100000, 200000
	r.create("plain", "")
	r.write("plain", aProgram())
	for name, first := range map[string]uint32{"a": a, "b": b} {
		assert.NilError(r.t, r.createWith(name, "plain", store.CreateOptions{IDMap: shifted(first)}))
	}
	r.create("unmapped", "plain")
	info, err := r.store.Info(r.ctx())
	assert.NilError(r.t, err)
	top := []string{r.cfg.Root, info.MountDir}
	closed := []string{"-rwx------ 0:0", "-rwx------ 0:0"}
	assert.DeepEqual(r.t, access(r, top...), closed)

	unmapped, plain := r.mount("unmapped"), r.mount("plain")
	assert.DeepEqual(r.t, access(r, top...), closed)
	ofA := r.mount("a")
	assert.DeepEqual(r.t, access(r, r.cfg.Root, filepath.Dir(ofA)), []string{"-rwx--x--- 0:100000", "-rwx--x--- 0:100000"})
	assert.Assert(r.t, reader(r, a, ofA), "its own")
	assert.Assert(r.t, !reader(r, b, ofA), "b has nothing mounted yet")
	ofB := r.mount("b")
	for _, tc := range []struct {
		first uint32
		dir   string
		want  bool
	}{{a, ofA, true}, {b, ofB, true}, {a, ofB, false}, {b, ofA, false}, {a, unmapped, false}, {b, unmapped, false}, {a, plain, false}, {b, plain, false}} {
		assert.Equal(r.t, reader(r, tc.first, tc.dir), tc.want, "from %d: %s", tc.first, tc.dir)
	}
	rel, err := filepath.Rel(r.dir, ofA)
	assert.NilError(r.t, err)
	text, err := asRoot(r.ctx(), r.dir, shifted(a), `cd "$0" && echo mine >new && rm su && cat new`, rel)
	assert.NilError(r.t, err, text)
	assert.Equal(r.t, text, "mine\n")
	for _, list := range []string{r.cfg.Root, filepath.Dir(ofA), filepath.Dir(unmapped), filepath.Join(r.cfg.Root, "data")} {
		rel, err := filepath.Rel(r.dir, list)
		assert.NilError(r.t, err)
		text, err = asRoot(r.ctx(), r.dir, shifted(a), `ls "$0"`, rel)
		assert.Assert(r.t, err != nil && strings.Contains(text, "Permission denied"), "list %s: %s", list, text)
	}

	r.unmount("b")
	assert.DeepEqual(r.t, access(r, r.cfg.Root), []string{"-rwx--x--- 0:100000"})
	assert.Assert(r.t, !reader(r, b, ofA))
	r.unmount("a")
	assert.DeepEqual(r.t, access(r, top...), closed)
	for _, dir := range []string{ofA, ofB} {
		_, err := os.Lstat(filepath.Dir(dir))
		assert.Assert(r.t, os.IsNotExist(err), "%s: %v", dir, err)
	}
	r.unmount("plain")
	r.unmount("unmapped")
}

// gatesSurvive: whoever opens the store next lets in who has layers mounted, and nobody else.
func gatesSurvive(r *rig) {
	const a, b = 100000, 200000
	dirs := map[string]string{}
	for name, first := range map[string]uint32{"a": a, "b": b} {
		assert.NilError(r.t, r.createWith(name, "", store.CreateOptions{IDMap: shifted(first)}))
		dirs[name] = r.mount(name)
		assert.NilError(r.t, Steps(aProgram(), Chown("su", int(first), int(first)))(dirs[name]))
	}
	r.unmount("b")
	stale := filepath.Dir(dirs["b"])
	assert.NilError(r.t, os.Mkdir(stale, 0o755)) // as if the process had been killed while it removed that
	r.reopen()
	_, err := os.Lstat(stale)
	assert.Assert(r.t, os.IsNotExist(err), "%v", err)
	assert.Equal(r.t, r.mount("a"), dirs["a"])
	assert.Assert(r.t, reader(r, a, dirs["a"]))
	assert.Assert(r.t, !reader(r, b, dirs["a"]))
	info, err := r.store.Info(r.ctx())
	assert.NilError(r.t, err)
	assert.Equal(r.t, info.Mounted, 1)
	r.unmount("a")
	assert.Assert(r.t, reader(r, a, dirs["a"]), "one of two mounts is left")
	r.unmount("a")
	assert.DeepEqual(r.t, access(r, r.cfg.Root, info.MountDir), []string{"-rwx------ 0:0", "-rwx------ 0:0"})
}
