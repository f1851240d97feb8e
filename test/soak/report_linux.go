package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// A loss is something that must not happen.
type loss string

// The losses.
const (
	lossGone    loss = "lost"            // it was promised and is not there
	lossWrong   loss = "wrong content"   // it is there and is not what it was
	lossBack    loss = "back"            // it was removed and is there
	lossFinding loss = "false finding"   // check or gc blames what is well
	lossRemoved loss = "wrongly removed" // repair or gc removed what is well
	lossMissed  loss = "missed rot"      // check does not see what is rotten
	lossFailed  loss = "failed"          // a call failed, and there was no reason
	lossDaemon  loss = "program"         // it ended, hung or said something that it must not
	lossMemory  loss = "memory"          // too much of it, or too many descriptors
	lossLeft    loss = "left behind"     // in the end
	maxLosses        = 40                // that are kept in words
	maxText          = 400               // characters of one
	second           = 1000 * time.Millisecond
)

// report counts what happened. Safe for concurrent use.
type report struct {
	mu     sync.Mutex
	begun  time.Time
	calls  map[string]*tally
	counts map[string]int // of other things
	losses map[loss]int
	words  []string
	peaks  peaks
}

// tally counts calls of one kind.
type tally struct{ done, cut, failed int }

// peaks are the most that the program took at any time.
type peaks struct {
	rss         int64 // bytes
	descriptors int
	idle        int // descriptors when nothing was going on
	first       int // descriptors when it had just started
}

func newReport() *report {
	return &report{begun: time.Now(), calls: map[string]*tally{}, counts: map[string]int{}, losses: map[loss]int{}}
}

// call counts a call. cut tells that its failure was to be expected.
func (r *report) call(name string, err error, cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.calls[name]
	if t == nil {
		t = &tally{}
		r.calls[name] = t
	}
	switch {
	case err == nil:
		t.done++
	case cut:
		t.cut++
	default:
		t.failed++
	}
}

// count counts something else.
func (r *report) count(what string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[what] += n
}

// lose notes a loss.
func (r *report) lose(what loss, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if len(text) > maxText {
		text = text[:maxText] + "..."
	}
	at := time.Since(r.begun).Round(second / 10)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.losses[what]++
	if len(r.words) < maxLosses {
		r.words = append(r.words, fmt.Sprintf("%s after %v: %s", what, at, text))
		progress("%s: %s", strings.ToUpper(string(what)), text)
	}
}

// took notes what the program takes.
func (r *report) took(rss int64, descriptors int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.peaks.rss, r.peaks.descriptors = max(r.peaks.rss, rss), max(r.peaks.descriptors, descriptors)
}

// lost tells whether there was a loss.
func (r *report) lost() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.losses) > 0
}

// write prints the report in Markdown.
func (r *report) write(w io.Writer, o options) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "## Soak: %s on %s, %v, seed %d\n\n", o.backend, o.fs, time.Since(r.begun).Round(second), o.seed)
	b.WriteString("Calls that are cut off were to fail: the program was killed, the disk full, the layer rotten or taken by another client. " +
		"Losses are at the end.\n\n")
	b.WriteString("| call | done | cut off | failed |\n|---|---|---|---|\n")
	var sum tally
	for _, name := range slices.Sorted(maps.Keys(r.calls)) {
		t := r.calls[name]
		fmt.Fprintf(&b, "| %s | %d | %d | %d |\n", name, t.done, t.cut, t.failed)
		sum = tally{sum.done + t.done, sum.cut + t.cut, sum.failed + t.failed}
	}
	fmt.Fprintf(&b, "| all | %d | %d | %d |\n\n", sum.done, sum.cut, sum.failed)
	for _, what := range slices.Sorted(maps.Keys(r.counts)) {
		fmt.Fprintf(&b, "* %s: %d\n", what, r.counts[what])
	}
	fmt.Fprintf(&b, "* peak resident memory: %d MiB\n* descriptors: %d at most, %d when idle, %d after the start\n\n",
		r.peaks.rss>>20, r.peaks.descriptors, r.peaks.idle, r.peaks.first)
	if len(r.losses) == 0 {
		b.WriteString("Nothing was lost.\n")
	}
	for _, what := range slices.Sorted(maps.Keys(r.losses)) {
		fmt.Fprintf(&b, "* **%s: %d**\n", what, r.losses[what])
	}
	for _, line := range r.words {
		fmt.Fprintf(&b, "    * %s\n", line)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
