package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"strata/backend/store"
)

// soaker is one run.
type soaker struct {
	o      options
	d      *daemon
	ledger *ledger
	report *report
	rotten *rotten
	blobs  *blobs
	empty  []string // files of a store without layers

	// gate is held for reading by each act of a client, and for writing while the store is looked at.
	gate   sync.RWMutex
	full   atomic.Bool  // the disk is
	writes atomic.Int64 // into mounts, so far
	rots   atomic.Int64 // so far
}

// act is something that a client does, and how often compared with others.
type act struct {
	weight int
	do     func(ctx context.Context)
}

// soak runs everything. It returns nil, and why, if there was no run to speak of.
func soak(ctx context.Context, o options) (s *soaker, err error) {
	d, err := bootDaemon(ctx, o)
	if err != nil {
		return nil, err
	}
	s = &soaker{o: o, d: d, ledger: newLedger(), report: newReport(), rotten: newRotten()}
	defer func() {
		if err := d.close(); err != nil {
			s.report.lose(lossLeft, "%v", err)
		}
	}()
	if s.blobs, err = serveBlobs(ctx, filepath.Join(d.m.Dir(), "blobs"), d.m.Path(containerdSocket)); err != nil {
		return nil, err
	}
	defer s.blobs.close()
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	stop := s.load(ctx)
	err = s.trouble(ctx)
	stop()
	return s, errors.Join(err, s.end(context.WithoutCancel(ctx)))
}

// begin starts the program on an empty disk and notes what is there then.
func (s *soaker) begin(ctx context.Context) (err error) {
	if err := s.d.start(ctx); err != nil {
		return err
	}
	if err := s.d.init(ctx); err != nil {
		return err
	}
	if s.empty, err = s.files(); err != nil {
		return err
	}
	_, s.report.peaks.first, err = s.d.takes()
	return err
}

// load starts the clients. The result stops them.
func (s *soaker) load(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	run := func(kind, n int, acts []act) {
		rnd := s.newRand(kind, n)
		wg.Go(func() {
			for ctx.Err() == nil {
				s.gate.RLock()
				if ctx.Err() == nil && !s.d.dying.Load() {
					draw(rnd, acts)(context.WithoutCancel(ctx))
				}
				s.gate.RUnlock()
				time.Sleep(time.Duration(rnd.IntN(5)) * time.Millisecond) // lets a writer in
			}
		})
	}
	for n := range s.o.docker {
		run(11, n, s.newDocker(n).acts())
	}
	for n := range s.o.snapshot {
		run(12, n, s.newContainerd(n).acts())
	}
	run(13, 0, s.newKeeper(0).first())
	for n := range s.o.keepers {
		run(14, n, s.newKeeper(n+1).acts())
	}
	for n := range s.o.rivals {
		run(16, n, s.newRival(n).acts())
	}
	run(15, 0, s.newReader().acts())
	wg.Go(func() { s.watch(ctx) })
	return func() {
		cancel()
		wg.Wait()
	}
}

// draw chooses one of the acts by their weights.
func draw(rnd *rand.Rand, acts []act) func(context.Context) {
	sum := 0
	for _, a := range acts {
		sum += a.weight
	}
	n := rnd.IntN(sum)
	for _, a := range acts {
		if n -= a.weight; n < 0 {
			return a.do
		}
	}
	return nil // not reached
}

// newRand returns a generator that follows from the seed, one of the uses of chance, and a number within that.
func (s *soaker) newRand(use, n int) *rand.Rand {
	return rand.New(rand.NewPCG(s.o.seed, uint64(use)<<32+uint64(n)))
}

// call calls the program, and notes how that ended. A failure without a reason is a loss.
func (s *soaker) call(ctx context.Context, name string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.patience)
	defer cancel()
	err := do(ctx)
	cut := err != nil && (s.d.dying.Load() || s.full.Load())
	s.report.call(name, err, cut)
	switch {
	case err == nil || cut:
	case ctx.Err() != nil:
		s.report.lose(lossDaemon, "%s takes more than %v: %v", name, s.o.patience, err)
	default:
		s.report.lose(lossFailed, "%s: %v", name, err)
	}
	return err
}

// note notes how something ended that is not a call: it fails only for want of room.
func (s *soaker) note(what string, err error) {
	full := err != nil && s.full.Load() && wantsRoom(err)
	s.report.call(what, err, full)
	if err != nil && !full {
		s.report.lose(lossFailed, "%s: %v", what, err)
	}
}

// wantsRoom tells whether something failed because the disk is full. The kernel mounts an overlay read-only then.
func wantsRoom(err error) bool {
	text := strings.ToLower(err.Error()) // of a command, or of the program
	return slices.ContainsFunc([]string{"no space left", "quota exceeded", "read-only file system"}, func(reason string) bool {
		return strings.Contains(text, reason)
	})
}

// watch looks at the program from outside until ctx ends.
func (s *soaker) watch(ctx context.Context) {
	for ctx.Err() == nil {
		time.Sleep(second / 4)
		rss, descriptors, err := s.d.takes()
		if err == nil {
			s.report.took(rss, descriptors)
		}
		if rss > s.o.rss {
			s.report.lose(lossMemory, "the program has %d MiB", rss>>20)
		}
		if !s.d.dying.Load() && !s.d.alive() && !s.d.dying.Swap(true) {
			s.report.lose(lossDaemon, "it ended by itself: %s", s.d.lastWords())
		}
	}
}

// pause stops the clients: nothing is under way when it returns. The result lets them go on.
func (s *soaker) pause() (resume func()) {
	s.gate.Lock()
	return s.gate.Unlock
}

// revive starts the program again after it ended, with the clients paused.
func (s *soaker) revive(ctx context.Context) error {
	if err := s.d.start(ctx); err != nil {
		return fmt.Errorf("start again: %w", err)
	}
	s.d.dying.Store(false)
	return nil
}

// stat asks about a layer.
func (s *soaker) stat(ctx context.Context, name string) (i store.Info, err error) {
	err = s.call(ctx, "stat", func(ctx context.Context) error {
		i, err = s.d.to().control.Stat(ctx, name)
		return err
	})
	return i, err
}
