package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"strata/backend/store"
	"strata/test/e2e/engine"
)

// rotten are the layers that were made to rot. What is said about them is true, for ever. Safe for concurrent use.
type rotten struct {
	mu  sync.Mutex
	all []victim
}

func newRotten() *rotten { return &rotten{} }

func (r *rotten) add(v ...victim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, v...)
}

// concerns tells whether one of the texts names one of them.
func (r *rotten) concerns(texts ...string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.all, func(v victim) bool {
		return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, v.id) || strings.Contains(text, v.name) })
	})
}

// victim is a layer that was made to rot, or stands on one or below one.
type victim struct {
	name, parent, id string
	children         int
	change           change
}

// rot is one wound.
type rot struct {
	victim
	part string // record, log or data
	kind string // flip, cut or empty
	path string // the file, as the machine sees it
}

func (r rot) String() string {
	return fmt.Sprintf("%s of the %s of %s (%s, %d children)", r.kind, r.part, r.name, r.id, r.children)
}

// rotted makes layers, lets one of them rot while the program is down, and sees what becomes of that.
func (s *soaker) rotted(ctx context.Context, rnd *rand.Rand) error {
	defer s.pause()()
	victims, err := s.victims(ctx, rnd)
	if err != nil {
		s.report.lose(lossFailed, "make layers to rot: %v", err)
		return nil
	}
	s.rotten.add(victims...)
	end := s.d.stop
	if rnd.IntN(2) == 0 {
		end = s.d.kill
	}
	if err := end(); err != nil {
		return err
	}
	r, err := s.wound(ctx, rnd, victims)
	if err != nil {
		return err
	}
	progress("%s", r)
	if err := s.revive(ctx); err != nil {
		return fmt.Errorf("after %s: %w", r, err)
	}
	s.examine(ctx, r, victims)
	s.collectRotten(ctx, r, victims)
	s.repairRotten(ctx, r, victims)
	s.verify(ctx, true)
	s.bury(ctx, victims)
	return nil
}

// victims makes a chain of three layers and one that stands alone.
func (s *soaker) victims(ctx context.Context, rnd *rand.Rand) (list []victim, err error) {
	n := s.rots.Add(1)
	var parent string
	tree := engine.Manifest{}
	for i, part := range []string{"base", "middle", "top", "alone"} {
		v := victim{name: fmt.Sprintf("rot%d-%s", n, part), parent: parent, children: 2 - i}
		if part == "alone" {
			v.parent, v.children, tree = "", 0, engine.Manifest{}
		}
		if v.change, err = newChange(rnd, tree); err != nil {
			return nil, err
		}
		if err := s.post(ctx, "Create", map[string]any{"ID": v.name, "Parent": v.parent}, nil); err != nil {
			return nil, err
		}
		if err := s.apply(ctx, v.name, v.parent, v.change.tar); err != nil {
			return nil, err
		}
		info, err := s.stat(ctx, v.name)
		if err != nil {
			return nil, err
		}
		v.id, parent, tree = info.ID, v.name, v.change.tree
		list = append(list, v)
	}
	return list, nil
}

// wound damages one of the victims. Nothing but the bytes of one file changes.
func (s *soaker) wound(ctx context.Context, rnd *rand.Rand, victims []victim) (r rot, err error) {
	r = rot{victim: victims[rnd.IntN(len(victims))], part: choose(rnd, []string{"record", "log", "data"}), kind: choose(rnd, []string{"flip", "flip", "cut", "empty"})}
	if r.part == "data" {
		r.path = s.dataFile(rnd, r.victim)
	}
	if r.path == "" && r.part == "data" {
		r.part = "log" // the victim has no file with something in it, or they cannot be got at
	}
	switch r.part {
	case "record":
		r.path = path.Join(storeRoot, "layers", r.id)
	case "log":
		r.path = path.Join(storeRoot, "logs", r.id)
	}
	if r.part == "data" && s.o.backend == "btrfs" {
		subvolume := path.Join(storeRoot, "data/btrfs", r.id)
		set := func(value string) error {
			_, err := engine.Output(s.d.m.Command(ctx, "btrfs", "property", "set", "-f", subvolume, "ro", value))
			return err
		}
		if err := set("false"); err != nil {
			return r, err
		}
		defer func() { err = errors.Join(err, set("true")) }()
	}
	return r, damage(rnd, s.d.m.Path(r.path), r.kind)
}

// dataFile chooses a file of a layer's own with something in it, "" if there is none.
func (s *soaker) dataFile(rnd *rand.Rand, v victim) string {
	dir, ok := map[string]string{"overlay": "data/overlay/%s/diff", "vfs": "data/vfs/%s", "btrfs": "data/btrfs/%s"}[s.o.backend]
	if !ok {
		return ""
	}
	var files []string
	r := tar.NewReader(bytes.NewReader(v.change.tar))
	for {
		h, err := r.Next()
		if err != nil {
			break // we made it, so it is the end
		}
		if h.Typeflag == tar.TypeReg && h.Size > 0 {
			files = append(files, path.Join(storeRoot, fmt.Sprintf(dir, v.id), h.Name))
		}
	}
	return choose(rnd, files)
}

// damage changes the bytes of a file, and not its times.
func damage(rnd *rand.Rand, file, kind string) (err error) {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	switch kind {
	case "cut":
		err = f.Truncate(st.Size() / 2)
	case "empty":
		err = f.Truncate(0)
	default:
		at := rnd.Int64N(st.Size())
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		b[0] ^= 1 << rnd.IntN(8)
		_, err = f.WriteAt(b, at)
	}
	return errors.Join(err, os.Chtimes(file, st.ModTime(), st.ModTime()))
}

// examine: check finds the rot, or it does no harm, and nothing is given back wrong.
func (s *soaker) examine(ctx context.Context, r rot, victims []victim) {
	found := slices.Concat(s.check(ctx, store.CheckOptions{}), s.check(ctx, store.CheckOptions{Deep: true}))
	named := slices.ContainsFunc(found, func(f store.Finding) bool {
		return strings.Contains(f.Layer+f.Detail, r.name) || strings.Contains(f.Layer+f.Detail, r.id)
	})
	there := s.list(ctx)
	sound := true
	for _, v := range victims {
		i, ok := there[v.name]
		if !ok || i.Parent != v.parent {
			sound = false
			continue
		}
		digest, err := s.digest(ctx, v.name, v.parent)
		sound = sound && err == nil
		if err == nil && digest != v.change.digest {
			s.report.lose(lossWrong, "after %s: the diff of %s is given back with digest %s instead of %s", r, v.name, digest, v.change.digest)
		}
	}
	switch {
	case named:
		s.report.count("rots that check names, "+r.part, 1)
	case sound:
		s.report.count("rots that do no harm, "+r.part, 1)
	default:
		s.report.lose(lossMissed, "%s: check names %+v", r, found)
	}
}

// list returns the layers by name.
func (s *soaker) list(ctx context.Context) map[string]store.Info {
	there := map[string]store.Info{}
	_ = s.call(ctx, "ls", func(ctx context.Context) error { // it is in the report
		list, err := s.d.to().control.List(ctx)
		for _, i := range list {
			there[i.Name] = i
		}
		return err
	})
	return there
}

// collectRotten: gc --yes spares what can be read, and what others stand on.
func (s *soaker) collectRotten(ctx context.Context, r rot, victims []victim) {
	known := s.known()
	for _, v := range victims {
		known[v.name] = true
	}
	for _, x := range s.collect(ctx, store.GCOptions{Known: known, Yes: true}) {
		if x.Removed && !strings.HasPrefix(x.Name, prefixOrphan) && (r.part != "record" || x.ID != r.id || r.children > 0) {
			s.report.lose(lossRemoved, "after %s: gc removed %s %s: %s", r, x.Name, x.ID, x.Reason)
		}
	}
}

// repairRotten: repair takes away nothing that can be read, and nothing that others stand on.
func (s *soaker) repairRotten(ctx context.Context, r rot, victims []victim) {
	before := s.list(ctx)
	s.check(ctx, store.CheckOptions{Deep: true, Repair: true})
	there := s.list(ctx)
	for _, v := range victims {
		if _, had := before[v.name]; had && there[v.name].Name == "" {
			s.report.lose(lossRemoved, "after %s: repair removed %s", r, v.name)
		}
	}
}

// bury removes the victims, and what is left of them.
func (s *soaker) bury(ctx context.Context, victims []victim) {
	for _, v := range slices.Backward(victims) {
		_ = s.post(ctx, "Remove", map[string]any{"ID": v.name}, nil) // it is in the report
	}
	s.collect(ctx, store.GCOptions{Known: s.known(), Yes: true})
	there := s.list(ctx)
	for _, v := range victims {
		if _, ok := there[v.name]; ok {
			s.report.lose(lossBack, "%s was removed", v.name)
		}
	}
}
