package backendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"gotest.tools/v3/assert"

	"strata/backend"
	"strata/backend/store"
)

// Filled is an empty base layer that a sink fills, and what can be seen of it.
type Filled struct {
	Sink     func() (backend.Sink, error)
	Source   func() (backend.Source, error)
	Tree     func() (Tree, error) // what the layer shows once the sink is closed
	UID, GID uint32               // root's, as the layer stores them
}

// Sinks holds a sink and its source to what package backend says of them and the store's tars do not
// show. It needs no mount and no privileges of its own; empty makes a layer. [Run] does this to every backend.Sinker.
func Sinks(t *testing.T, empty func(t *testing.T) Filled) {
	t.Helper()
	for _, row := range []struct {
		name string
		run  func(t *testing.T, f Filled)
	}{
		{"link with properties", func(t *testing.T, f Filled) { t.Helper(); linkInSink(t, f, false) }},
		{"link without properties", func(t *testing.T, f Filled) { t.Helper(); linkInSink(t, f, true) }},
		{"parents that are implied", impliedInSink},
		{"content that is not there", contentOfSink},
		{"end of the context", endOfSink},
	} {
		t.Run(row.name, func(t *testing.T) { row.run(t, empty(t)) })
	}
}

// sinkRow holds a backend that takes layers through sinks to Sinks, with an IDMap and without.
func sinkRow(r *rig) {
	sinker, ok := r.back.(backend.Sinker)
	if !ok {
		return
	}
	n := 0
	for _, m := range []*backend.IDMap{nil, shifted(100000)} {
		Sinks(r.t, func(t *testing.T) Filled {
			t.Helper()
			n++
			at, name := *r, fmt.Sprint("filled", n)
			at.t = t
			assert.NilError(t, at.createWith(name, "", store.CreateOptions{IDMap: m}))
			uid, gid, err := m.Root()
			assert.NilError(t, err)
			return Filled{
				Sink:   func() (backend.Sink, error) { return sinker.Sink(at.ctx(), at.layer(name)) },
				Source: func() (backend.Source, error) { return sinker.Source(at.ctx(), at.layer(name)) },
				Tree:   func() (Tree, error) { return at.tree(name), nil },
				UID:    uid, GID: gid,
			}
		})
	}
}

// unpacker drives a sink in a test, and keeps nothing.
type unpacker struct{ end context.CancelCauseFunc }

func (unpacker) Save(uint64, io.ReaderAt) error { return nil }
func (unpacker) LeaveOut(_, _ string, _ error)  {}
func (u unpacker) Fail(err error)               { u.end(err) }

// named describes a file of that name.
func (f Filled) named(path string) *backend.Entry {
	return &backend.Entry{Name: path, Path: path, Mode: modeFile | 0o640, UID: f.UID, GID: f.GID, Atime: old, Mtime: old}
}

// text is the content of a file.
type text struct{ bytes.Buffer }

func (c *text) Left() int64 { return int64(c.Len()) }

func (c *text) Next() (backend.Extent, error) {
	if c.Len() == 0 {
		return backend.Extent{}, io.EOF
	}
	return backend.Extent{Data: c.Buffer.Next(c.Len())}, nil
}

// fill opens a sink, lets do use it, and closes it.
func (f Filled) fill(t *testing.T, do func(s backend.Sink, end context.CancelCauseFunc)) {
	t.Helper()
	s, err := f.Sink()
	assert.NilError(t, err)
	ctx, end := context.WithCancelCause(t.Context())
	defer end(nil)
	assert.NilError(t, s.Begin(ctx, unpacker{end}))
	do(s, end)
	assert.NilError(t, s.Close())
	assert.NilError(t, s.Close(), "Close comes twice")
}

// put makes a file.
func put(t *testing.T, s backend.Sink, e *backend.Entry, content string) {
	t.Helper()
	e.Size = int64(len(content))
	_, err := s.Put(e, &text{*bytes.NewBufferString(content)})
	assert.NilError(t, err, e.Path)
}

// linkInSink: the properties of a hard link's entry become the file's, unless it is bare.
func linkInSink(t *testing.T, f Filled, bare bool) {
	t.Helper()
	f.fill(t, func(s backend.Sink, _ context.CancelCauseFunc) {
		put(t, s, f.named("file"), "content")
		later := f.named("link")
		later.Mode, later.Mtime, later.Target, later.Bare = modeFile|0o600, old.Add(time.Hour), "file", bare
		_, late, err := s.Link(later, false)
		assert.NilError(t, err)
		assert.Assert(t, !late)
		assert.NilError(t, s.Finish())
	})
	tree, err := f.Tree()
	assert.NilError(t, err)
	assert.Equal(t, tree["file"].Group, "file", "no hard link")
	mode, when := os.FileMode(0o600), old.Add(time.Hour)
	if bare {
		mode, when = 0o640, old
	}
	for _, name := range []string{"file", "link"} {
		assert.Equal(t, tree[name].Mode, mode, name)
		assert.Assert(t, tree[name].Time.Equal(when), "%s has the time %v, want %v", name, tree[name].Time, when)
	}
}

// impliedInSink: parents that nothing describes are 0755, root's and as old as their unpacking.
func impliedInSink(t *testing.T, f Filled) {
	t.Helper()
	began := time.Now().Add(-time.Second) // clocks of file systems are coarse
	f.fill(t, func(s backend.Sink, _ context.CancelCauseFunc) {
		put(t, s, f.named("a/b/file"), "")
		assert.NilError(t, s.Finish())
	})
	tree, err := f.Tree()
	assert.NilError(t, err)
	for _, name := range []string{"a", "a/b"} {
		e := tree[name]
		assert.Equal(t, e.Mode, os.ModeDir|0o755, name)
		assert.DeepEqual(t, [2]uint32{e.UID, e.GID}, [2]uint32{f.UID, f.GID})
		assert.Assert(t, e.Time.After(began) && e.Time.Before(time.Now().Add(time.Second)), "%s has the time %v, want now", name, e.Time)
	}
}

// contentOfSink: a source gives what is there, and ErrDataLoss for what is something else than was put there.
func contentOfSink(t *testing.T, f Filled) {
	t.Helper()
	const content = "content"
	f.fill(t, func(s backend.Sink, _ context.CancelCauseFunc) {
		put(t, s, f.named("d/file"), content)
		l := f.named("link")
		l.Mode, l.Target = modeSymlink|0o777, "d/file"
		put(t, s, l, "")
		assert.NilError(t, s.Finish())
	})
	src, err := f.Source()
	assert.NilError(t, err)
	defer func() { assert.NilError(t, src.Close()) }()
	r := src.Reader()
	defer func() { assert.NilError(t, r.Close()) }()
	for _, tc := range []struct {
		name, at string
		size     int64
		lost     bool
	}{
		{"as it was put", "d/file", int64(len(content)), false},
		{"another size", "d/file", int64(len(content)) - 1, true},
		{"a larger size", "d/file", int64(len(content)) + 1, true},
		{"missing", "d/other", int64(len(content)), true},
		{"missing directory", "other/file", int64(len(content)), true},
		{"below a file", "d/file/x", int64(len(content)), true},
		{"behind a symlink", "link", int64(len(content)), true},
		{"a directory", "d", 0, true},
		{"a directory of the size that ext4 tells", "d", 4096, true},
	} {
		p := make([]byte, min(tc.size, 3))
		err := r.ReadFile(tc.at, tc.size, p, int64(len(p)/3))
		if tc.lost {
			assert.Assert(t, errdefs.IsDataLoss(err), "%s: %v", tc.name, err)
			continue
		}
		assert.NilError(t, err, tc.name)
		assert.Equal(t, string(p), content[1:4], tc.name)
	}
}

// endOfSink: what was ended is never finished.
func endOfSink(t *testing.T, f Filled) {
	t.Helper()
	f.fill(t, func(s backend.Sink, end context.CancelCauseFunc) {
		put(t, s, f.named("file"), "content")
		end(errors.New("somebody has failed"))
		assert.Assert(t, s.Finish() != nil, "Finish completes a layer after its context has ended")
	})
}
