package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// How long the load goes on between two troubles, at most, and when it is left alone. Short runs have as many troubles.
const (
	longest = 6 * second
	calmest = time.Minute
	fewest  = 8
)

// misfortune is a kind of trouble.
type misfortune struct {
	name   string
	act    func(ctx context.Context, rnd *rand.Rand) error
	weight int
}

// misfortunes are those that are wanted.
func (s *soaker) misfortunes() (wanted []misfortune, err error) {
	names := strings.Split(s.o.troubles, ",")
	for _, m := range []misfortune{{"kill", s.killed, 5}, {"restart", s.restarted, 1}, {"full", s.filled, 2}, {"rot", s.rotted, 3}, {"calm", s.calm, 1}} {
		if n := slices.Index(names, m.name); n >= 0 {
			names = slices.Delete(names, n, n+1)
			wanted = append(wanted, m)
		}
	}
	if len(names) > 0 {
		return nil, fmt.Errorf("-troubles %s: %q is unknown", s.o.troubles, names)
	}
	return wanted, nil
}

// plan returns the kind of the n-th trouble: at first each kind once.
func plan(rnd *rand.Rand, wanted []misfortune) func(n int) misfortune {
	order := rnd.Perm(len(wanted))
	weighted := make([]misfortune, 0, len(wanted))
	for _, m := range wanted {
		weighted = append(weighted, slices.Repeat([]misfortune{m}, m.weight)...)
	}
	return func(n int) misfortune {
		if n < len(order) {
			return wanted[order[n]]
		}
		return weighted[rnd.IntN(len(weighted))]
	}
}

// trouble makes trouble until the time is up and each has come once, and holds the store to the ledger after each.
func (s *soaker) trouble(ctx context.Context) error {
	rnd := s.newRand(6, 0)
	wanted, err := s.misfortunes()
	if err != nil {
		return err
	}
	next := plan(rnd, wanted)
	pause := min(longest, s.o.duration/fewest)
	end := time.Now().Add(s.o.duration)
	for n := 0; (n < len(wanted) || time.Now().Before(end)) && ctx.Err() == nil; n++ {
		calm := pause/4 + time.Duration(rnd.Int64N(int64(pause)))
		if n >= len(wanted) {
			calm = min(calm, time.Until(end))
		}
		wait(ctx, calm)
		m := next(n)
		progress("%s", m.name)
		if err := m.act(context.WithoutCancel(ctx), rnd); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		s.report.count("troubles, "+m.name, 1)
	}
	return nil
}

// wait waits, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// killed kills the program in the middle of the load, and at times again while it opens the store.
func (s *soaker) killed(ctx context.Context, rnd *rand.Rand) error {
	err := s.d.kill()
	defer s.pause()()
	if err != nil {
		return err
	}
	s.report.count("kills", 1)
	if rnd.IntN(3) == 0 {
		if err := s.killOpening(ctx, rnd); err != nil {
			return err
		}
	}
	if err := s.revive(ctx); err != nil {
		return err
	}
	s.verify(ctx, true)
	return nil
}

// killOpening starts the program and kills it when it has just begun to open the store.
func (s *soaker) killOpening(ctx context.Context, rnd *rand.Rand) error {
	if err := s.d.start(ctx); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = s.d.to().control.List(ctx) // opens the store; nothing is lost with the answer
	}()
	time.Sleep(time.Duration(rnd.IntN(40)) * time.Millisecond)
	err := s.d.kill()
	<-ended
	s.report.count("kills while opening", 1)
	return err
}

// restarted ends the program in the middle of the load as systemd does.
func (s *soaker) restarted(ctx context.Context, _ *rand.Rand) error {
	err := s.d.stop()
	defer s.pause()()
	if err != nil {
		s.report.lose(lossDaemon, "%v", err)
	}
	if err := s.revive(ctx); err != nil {
		return err
	}
	s.verify(ctx, false)
	return nil
}

// filled takes the disk's room away for a while, and at times kills the program meanwhile.
func (s *soaker) filled(ctx context.Context, rnd *rand.Rand) error {
	s.full.Store(true)
	empty, err := s.d.fill(ctx)
	if err != nil {
		return err
	}
	time.Sleep(second/2 + time.Duration(rnd.Int64N(int64(2*second))))
	kill := rnd.IntN(3) == 0
	if kill {
		err = s.d.kill()
		s.report.count("kills while full", 1)
	}
	defer s.pause()()
	if kill && err == nil {
		if err := s.revive(ctx); err != nil {
			s.report.lose(lossDaemon, "on a full disk: %v", err)
		}
		s.verify(ctx, kill)
	}
	if err := errors.Join(err, empty()); err != nil {
		return err
	}
	s.full.Store(false)
	if !s.d.alive() {
		if err := s.revive(ctx); err != nil {
			return err
		}
	}
	s.verify(ctx, kill)
	return nil
}

// calm leaves the program alone for a longer time, and then looks at what it takes while it does nothing.
func (s *soaker) calm(ctx context.Context, _ *rand.Rand) error {
	wait(ctx, min(calmest, s.o.duration/10))
	defer s.pause()()
	s.idle()
	s.verify(ctx, false)
	return nil
}
