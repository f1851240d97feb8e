package main

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"strata/backend/store"
	"strata/plugin/snapshotter"
)

// What the program may have open when nothing goes on, beyond what it had when it had just started: connections.
const moreIdle = 16

// damagedPlace is where repair puts records that cannot be read. It stays when they are gone.
const damagedPlace = "/damaged"

// end removes everything, ends the program, and looks at what is left. The clients have ended.
func (s *soaker) end(ctx context.Context) error {
	if !s.d.alive() || s.d.dying.Load() {
		if err := s.revive(ctx); err != nil {
			return err
		}
	}
	progress("end")
	s.verify(ctx, true)
	s.removeAll(ctx)
	s.collect(ctx, store.GCOptions{Known: s.known(), Yes: true}) // what is rotten, if time was up before that
	s.settle(ctx)
	s.check(ctx, store.CheckOptions{Deep: true})
	for name := range s.list(ctx) {
		s.report.lose(lossLeft, "layer %s", name)
	}
	s.idle()
	if err := s.d.stop(); err != nil {
		s.report.lose(lossDaemon, "%v", err)
	}
	for _, line := range s.d.complaints() {
		s.report.lose(lossDaemon, "it says: %s", line)
	}
	left, err := s.d.m.Left()
	for _, x := range left {
		s.report.lose(lossLeft, "%s", x)
	}
	files, ferr := s.files()
	for _, f := range files {
		switch {
		case slices.Contains(s.empty, f), f == damagedPlace:
		case s.rotten.concerns(f):
			s.report.count("files left of layers that were rotten", 1)
		default:
			s.report.lose(lossLeft, "file %s", f)
		}
	}
	return errors.Join(err, ferr)
}

// removeAll removes all layers as their clients do, children first.
func (s *soaker) removeAll(ctx context.Context) {
	c, d := &containerd{soaker: s}, &docker{soaker: s}
	for _, name := range rivals() {
		_ = s.post(ctx, "Remove", map[string]any{"ID": name}, nil) // it is in the report
	}
	for removed := true; removed; {
		removed = false
		for _, name := range s.ledger.there("", anything) {
			if len(s.ledger.children(name)) > 0 {
				continue
			}
			if strings.HasPrefix(name, snapshotter.Prefix) {
				c.removeSnapshot(ctx, name)
			} else {
				d.removeLayer(ctx, name)
			}
			e, _ := s.ledger.entry(name)
			removed = removed || e.may[0] == nil && len(e.may) == 1
		}
	}
}

// settle waits until what was removed is deleted.
func (s *soaker) settle(ctx context.Context) {
	for end := time.Now().Add(s.o.patience); ; time.Sleep(second / 10) {
		info, err := s.d.to().control.Info(ctx)
		if err == nil && info.Deleting == 0 {
			return
		}
		if time.Now().After(end) {
			s.report.lose(lossLeft, "%d layers wait for their deletion: %v", info.Deleting, err)
			return
		}
	}
}

// idle looks at what the program has open while nothing goes on.
func (s *soaker) idle() {
	l := s.d.to()
	l.docker.Close()
	_ = l.control.Close() // idle connections only, and it cannot fail
	var open int
	for range 50 {
		_, n, err := s.d.takes()
		if open = n; err == nil && n <= s.report.peaks.first+moreIdle {
			break
		}
		time.Sleep(second / 10)
	}
	s.report.mu.Lock()
	s.report.peaks.idle = max(s.report.peaks.idle, open)
	s.report.mu.Unlock()
	if open > s.report.peaks.first+moreIdle {
		s.report.lose(lossMemory, "%d descriptors are open when nothing goes on, %d after the start", open, s.report.peaks.first)
	}
}

// files lists what is in the store's directory.
func (s *soaker) files() (files []string, err error) {
	root := s.d.m.Path(storeRoot)
	err = filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err == nil {
			files = append(files, strings.TrimPrefix(p, root))
		}
		return err
	})
	return files, err
}
