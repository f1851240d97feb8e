package backendtest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"

	"strata/backend/internal/failpoint"
	"strata/backend/store"
)

// operation is one step of the script that Crash kills.
type operation struct {
	layer string
	kind  opKind
	after string // digest of the layer's diff afterwards, "" if it does not change, anyContent if unknown; of opRename, its name
	run   func(ctx context.Context, s *store.Store) error
}

// In the place of a digest: content that depends on the clock, content that is as it was.
const (
	anyContent  = "any"
	sameContent = "same"
)

// neverMounted are layers that the script does not mount, so that nobody would unmount them.
var neverMounted = []string{"base", "child", "brief", "clone"}

type opKind int

const (
	opChange opKind = iota // afterwards the layer is there; its content is noted
	opAlter                // the same, and a layer that was there before is never lost
	opRemove               // afterwards it is not
	opRead                 // changes nothing
	opRename               // afterwards it has another name, and at no time none or both
)

// newCountdown returns a function that calls f the n-th time it is called, and else does nothing.
func newCountdown(n int, f func() error) func() error {
	var calls atomic.Int64
	return func() error {
		if calls.Add(1) == int64(n) {
			return f()
		}
		return nil
	}
}

// crashScript has every operation of a store at least once. Times are fixed where content is
// compared between runs; nothing else depends on the clock.
func crashScript() []operation {
	create := func(name, parent string) operation {
		return operation{name, opChange, digest(make([]byte, 1024)), func(ctx context.Context, s *store.Store) error {
			return s.Create(ctx, name, parent, store.CreateOptions{})
		}}
	}
	apply := func(name string, seed uint64) operation {
		return operation{name, opChange, digest(crashArchive(seed)), func(ctx context.Context, s *store.Store) error {
			_, err := s.Apply(ctx, name, bytes.NewReader(crashArchive(seed)))
			return err
		}}
	}
	write := func(name string, steps ...Step) operation {
		return operation{name, opAlter, anyContent, func(ctx context.Context, s *store.Store) error {
			dir, err := s.Mount(ctx, name, store.MountOptions{})
			if err != nil {
				return err
			}
			return errors.Join(Steps(steps...)(dir), s.Unmount(ctx, name))
		}}
	}
	remove := func(name string) operation {
		return operation{name, opRemove, "", func(ctx context.Context, s *store.Store) error { return s.Remove(ctx, name) }}
	}
	return append([]operation{
		create("base", ""), apply("base", 1),
		create("child", "base"), apply("child", 2),
		create("rw", "child"), write("rw", Mkdir("w", 0o755), CreateFile("w/f", Noise(3, 70000), 0o644), Remove("d/f02")),
		create("rw2", "rw"), write("rw2", RemoveAll("d"), CreateFile("own", nil, 0o600)),
		{"clone", opChange, anyContent, func(ctx context.Context, s *store.Store) error {
			return s.Clone(ctx, "clone", "rw2", store.CreateOptions{})
		}},
		create("mapped", "base"), write("mapped", CreateFile("m", nil, 0o644), Chown("m", 7, 7)),
		{"mapped", opAlter, "", func(ctx context.Context, s *store.Store) error {
			return canDo(s.SetIDMap(ctx, "mapped", shifted(100000)))
		}},
		{"rw2", opAlter, "", func(ctx context.Context, s *store.Store) error {
			return canDo(s.SetLimit(ctx, "rw2", 64<<20))
		}},
		create("brief", "child"), apply("brief", 4), remove("brief"),
		remove("clone"),
		create("mounted", "child"),
		{"mounted", opRead, "", func(ctx context.Context, s *store.Store) error {
			_, err := s.Mount(ctx, "mounted", store.MountOptions{})
			return err
		}},
		{"mounted", opRead, "", func(ctx context.Context, s *store.Store) error { return s.Unmount(ctx, "mounted") }},
		{"rw", opRead, "", func(ctx context.Context, s *store.Store) error {
			_, err := Collect(s.Changes(ctx, "rw", "child"))
			return err
		}},
		{"rw2", opRead, "", func(ctx context.Context, s *store.Store) error {
			_, err := s.Mount(ctx, "rw2", store.MountOptions{}) // and so it stays
			return err
		}},
		create("brief2", "rw"), write("brief2", CreateFile("x", nil, 0o644)),
		{"brief2", opRemove, "", func(ctx context.Context, s *store.Store) error {
			if _, err := s.Mount(ctx, "brief2", store.MountOptions{}); err != nil {
				return err
			}
			return s.Remove(ctx, "brief2")
		}},
	}, snapshotScript(write, remove)...)
}

// snapshotScript has what a snapshotter does.
func snapshotScript(write func(string, ...Step) operation, remove func(string) operation) []operation {
	draft := func(name, parent string) operation {
		return operation{name, opChange, anyContent, func(ctx context.Context, s *store.Store) error {
			return s.Create(ctx, name, parent, store.CreateOptions{Detached: parent == "", Draft: true})
		}}
	}
	detached := func(name string) operation {
		return operation{name, opChange, anyContent, func(ctx context.Context, s *store.Store) error {
			return s.Create(ctx, name, "", store.CreateOptions{Detached: true})
		}}
	}
	unpack := func(name string, seed uint64) operation {
		return operation{name, opChange, anyContent, func(ctx context.Context, s *store.Store) error {
			_, err := s.Unpack(ctx, name, bytes.NewReader(crashArchive(seed)))
			return err
		}}
	}
	commit := func(name, as, parent string) operation {
		return operation{name, opRename, as, func(ctx context.Context, s *store.Store) error {
			err := s.Commit(ctx, name, as, store.CommitOptions{Parent: parent})
			if errdefs.IsNotImplemented(err) {
				err = s.Commit(ctx, name, as, store.CommitOptions{})
			}
			return err
		}}
	}
	lend := func(name string) operation {
		return operation{name, opRead, "", func(ctx context.Context, s *store.Store) error {
			_, err := s.Mounts(ctx, name, store.MountOptions{})
			return err
		}}
	}
	link := func(name, target string) operation {
		return operation{name, opChange, anyContent, func(ctx context.Context, s *store.Store) error {
			return s.Link(ctx, name, target, map[string]string{"kind": "view"})
		}}
	}
	return []operation{
		draft("active1", ""), unpack("active1", 5), commit("active1", "committed1", ""),
		draft("active2", ""), unpack("active2", 6), commit("active2", "committed2", "committed1"),
		detached("active3"), write("active3", CreateFile("f", Noise(7, 70000), 0o644)), commit("active3", "committed3", ""),
		draft("active4", "committed1"), write("active4", CreateFile("f", Noise(8, 70000), 0o644)), commit("active4", "committed4", ""),
		draft("active5", "committed1"), link("view3", "active5"),
		link("view1", "committed2"), link("view2", "committed2"), lend("view1"), lend("view2"), lend("active5"), remove("view1"),
		{"committed2", opAlter, "", func(ctx context.Context, s *store.Store) error {
			_, err := s.UpdateLabels(ctx, "committed2", func(labels map[string]string) error {
				labels["l"] = "1"
				return nil
			})
			return err
		}},
	}
}

// canDo passes over what a backend cannot do.
func canDo(err error) error {
	if errdefs.IsNotImplemented(err) {
		return nil
	}
	return err
}

// crashArchive is what the script's layers are filled with.
func crashArchive(seed uint64) []byte {
	members := []member{directory("d"), file(".wh.never", "")}
	for i := range 12 {
		members = append(members, file(fmt.Sprintf("d/f%02d", i), string(Noise(seed+uint64(i), i*3000))))
	}
	return archive(append(members, link("d/f03", "hard"), sym("d", "soft"), file("d/f01", "twice"), directory("e"))...)
}

func digest(text []byte) string { return fmt.Sprintf("%x", sha256.Sum256(text)) }

// crashChild plays the script on a store at root, notes its progress, and returns an exit code. It
// runs in a process of its own, which a failpoint may end at any time.
func crashChild(f Factory, root string) int {
	if err := playScript(f, root); err != nil {
		fmt.Fprintln(os.Stderr, "script:", err)
		return 1
	}
	return 0
}

func playScript(f Factory, root string) (err error) {
	if err := failpoint.ArmFromEnvironment(); err != nil {
		return err
	}
	if err := armCrashPoint(); err != nil {
		return err
	}
	tolerant := strings.HasPrefix(os.Getenv(envCrashPoint), "error ")
	ctx := context.Background()
	cfg := store.Config{Root: root, Backend: f.Backend, ExactDiffs: true, New: f.New}
	s, err := store.Open(ctx, cfg)
	if err != nil && tolerant {
		s, err = store.Open(ctx, cfg) // the error is injected once
	}
	if err != nil {
		return err
	}
	defer func() {
		if cerr := s.Close(ctx); err == nil && !tolerant {
			err = cerr
		}
	}()
	if os.Getenv(envCrashOpen) != "" {
		return awaitDeletions(ctx, s)
	}
	journal, err := os.OpenFile(os.Getenv(envCrashJournal), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer journal.Close()
	for i, o := range crashScript() {
		if err := o.play(ctx, s, journal); err != nil && !tolerant {
			return fmt.Errorf("operation %d on %s: %w", i, o.layer, err)
		}
	}
	return awaitDeletions(ctx, s)
}

// play runs the operation and notes before and after it what one may rely on.
func (o operation) play(ctx context.Context, s *store.Store, journal io.Writer) error {
	kind := map[opKind]string{opChange: "change", opAlter: "alter", opRemove: "remove", opRead: "read", opRename: "rename"}[o.kind]
	if err := note(journal, "begin", o.layer, kind+":"+o.after); err != nil {
		return err
	}
	if err := o.run(ctx, s); err != nil {
		return err
	}
	switch o.kind {
	case opRemove:
		return note(journal, "absent", o.layer, "-")
	case opRead:
		return nil
	case opRename:
		return note(journal, "renamed", o.layer, o.after)
	case opChange, opAlter:
	}
	// Acknowledged. What it really holds is noted as soon as that is known.
	if err := note(journal, "present", o.layer, cmp.Or(o.after, sameContent)); err != nil {
		return err
	}
	info, err := s.Stat(ctx, o.layer)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := s.Diff(ctx, o.layer, info.Parent, &b); err != nil {
		return err
	}
	return note(journal, "present", o.layer, digest(b.Bytes()))
}

// note writes one line. A killed process loses nothing that it has written.
func note(w io.Writer, words ...string) error {
	_, err := io.WriteString(w, strings.Join(words, " ")+"\n")
	return err
}
