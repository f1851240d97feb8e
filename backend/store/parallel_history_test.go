package store_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// history knows when which call began and ended, and what it said about a name. Calls that overlap may have happened in any
// order; what one said must agree with some order.
type history struct {
	clock  atomic.Int64
	mu     sync.Mutex
	events map[string][]event // by name
}

// aspect is what a call does to a name or learns of it.
type aspect int

const (
	makes  aspect = iota // gives a layer the name
	takes                // takes the name from the layer that has it
	finds                // some layer has the name
	misses               // none has it
)

type event struct {
	aspect     aspect
	begin, end int64
	failed     bool // but may have had an effect for a while
	what       string
	id         string // of the layer that was found, "" if that is not known
}

func (e event) String() string {
	return fmt.Sprintf("[%d %d] %s failed=%t %s", e.begin, e.end, e.what, e.failed, e.id)
}

func newHistory() *history { return &history{events: map[string][]event{}} }

func (h *history) now() int64 { return h.clock.Add(1) }

func (h *history) add(name string, e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events[name] = append(h.events[name], e)
}

// overlaps tells whether an event of that kind may have happened between two moments.
func overlaps(events []event, a aspect, from, to int64, failedToo bool) bool {
	for _, e := range events {
		if e.aspect == a && (failedToo || !e.failed) && e.end > from && e.begin < to {
			return true
		}
	}
	return false
}

// judge complains about every event that no order explains.
func (h *history) judge(t *testing.T) {
	t.Helper()
	for name, events := range h.events {
		for _, late := range events {
			for _, early := range events {
				if early.end >= late.begin || early.failed {
					continue
				}
				if problem := contradiction(events, early, late); problem != "" {
					t.Errorf("name %q: %s:\n  %v\n  %v", name, problem, early, late)
				}
			}
		}
	}
}

// contradiction says why a call cannot have said what it did after an earlier one, "" if it can.
func contradiction(events []event, early, late event) string {
	switch {
	case early.aspect == makes && (late.aspect == misses || late.aspect == makes && !late.failed):
		if !overlaps(events, takes, early.begin, late.end, true) {
			return "a layer was made, and nobody took its name"
		}
	case early.aspect == takes && late.aspect == finds:
		if !overlaps(events, makes, early.begin, late.end, true) {
			return "a layer was removed, and nobody made another"
		}
		if late.id != "" && overlapsID(events, early, late.id) {
			return "a removed layer is back"
		}
	}
	return ""
}

// overlapsID tells whether the layer with that ID was found before it was removed by its name.
func overlapsID(events []event, removal event, id string) bool {
	for _, e := range events {
		if e.aspect == finds && e.id == id && e.end < removal.begin {
			return true
		}
	}
	return false
}

// A history finds what cannot be.
func TestHistory(t *testing.T) {
	created := event{aspect: makes, begin: 1, end: 3}
	removed := event{aspect: takes, begin: 4, end: 6}
	for _, tc := range []struct {
		name   string
		others []event
		early  event
		late   event
		wrong  bool
	}{
		{"lost", nil, created, event{aspect: misses, begin: 5, end: 6}, true},
		{"removed", []event{removed}, created, event{aspect: misses, begin: 5, end: 6}, false},
		{"removed later", []event{{aspect: takes, begin: 8, end: 9}}, created, event{aspect: misses, begin: 5, end: 6}, true},
		{"made twice", nil, created, event{aspect: makes, begin: 5, end: 6}, true},
		{"refused the second time", nil, created, event{aspect: makes, begin: 5, end: 6, failed: true}, false},
		{"still there", nil, removed, event{aspect: finds, begin: 7, end: 8}, true},
		{"made again", []event{{aspect: makes, begin: 5, end: 9}}, removed, event{aspect: finds, begin: 7, end: 8}, false},
		{"back", []event{{aspect: finds, begin: 2, end: 3, id: "x"}, {aspect: makes, begin: 5, end: 9}}, removed, event{aspect: finds, begin: 7, end: 8, id: "x"}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			problem := contradiction(tc.others, tc.early, tc.late)
			if (problem != "") != tc.wrong {
				t.Errorf("%q", problem)
			}
		})
	}
}
