package regular

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
)

// TestReplace holds that a file has the old or the new content, and that nothing else stays.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	assert.NilError(t, os.WriteFile(path+Temporary, make([]byte, 10_000), 0o600)) // of a crash
	holds := func(want string) {
		t.Helper()
		text, err := os.ReadFile(path)
		assert.NilError(t, err)
		assert.Equal(t, string(text), want)
		entries, err := os.ReadDir(dir)
		assert.NilError(t, err)
		assert.Equal(t, len(entries), 1)
	}
	assert.NilError(t, ReplaceDurably(path, []byte("one")))
	holds("one")
	assert.NilError(t, ReplaceDurably(path, []byte("two")))
	holds("two")
	failed := errors.New("the disk is full")
	err := Replace(path, func(tmp string) error { return errors.Join(os.WriteFile(tmp, []byte("half"), 0o600), failed) })
	assert.ErrorIs(t, err, failed)
	holds("two")
	assert.NilError(t, os.MkdirAll(path+Temporary+"/full", 0o700))
	assert.ErrorContains(t, ReplaceDurably(path, []byte("three")), "replace "+path)
	assert.NilError(t, os.RemoveAll(path+Temporary))
	holds("two")
	assert.ErrorContains(t, ReplaceDurably(filepath.Join(dir, "no", "dir"), nil), "no such file")
}

// TestReplaceTakesNoOther: what lies under the other name is replaced, whatever it is.
func TestReplaceTakesNoOther(t *testing.T) {
	dir := t.TempDir()
	path, victim := filepath.Join(dir, "f"), filepath.Join(dir, "victim")
	assert.NilError(t, os.WriteFile(victim, []byte("mine"), 0o644))
	assert.NilError(t, os.Symlink(victim, path+Temporary))
	assert.NilError(t, ReplaceDurably(path, []byte("new")))
	for name, want := range map[string]string{path: "new", victim: "mine"} {
		text, err := os.ReadFile(name)
		assert.NilError(t, err)
		assert.Equal(t, string(text), want)
	}
	assert.NilError(t, os.WriteFile(path+Temporary, []byte("left by a crash"), 0o666))
	assert.NilError(t, ReplaceDurably(path, []byte("newer")))
	info, err := os.Lstat(path)
	assert.NilError(t, err)
	assert.Equal(t, info.Mode(), os.FileMode(0o600))
}
