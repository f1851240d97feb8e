package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"strata/test/e2e/engine"
)

// promise is what a client was told about a layer of a name, or may have been.
type promise struct {
	parent string          // its name, "" if there is none
	orphan bool            // the parent may have lost its name
	digest string          // of the tar that filled the layer, "" if none did
	tree   engine.Manifest // what it shows, nil if nobody can tell
	label  string          // that a client gave to it
	half   bool            // it was not filled to the end, and can only be removed
	mapped bool            // its owners are stored as those of a user namespace, and clients see them so
	whole  bool            // a tar has filled it, so that it is not written to, though it could be
	fixed  bool            // it can have children, and is not written to any more
}

// entry is what is known about a name.
type entry struct {
	may     []*promise // what the name may mean; nil is nothing. One if nothing is open
	mounts  []int      // how often it may be mounted
	half    time.Time  // when it was known no more that a layer of that name may have been filled in part
	becomes string     // the name that it has instead, if it has that one
}

// ledger is what the clients know. Safe for concurrent use; each name has one client that changes it.
type ledger struct {
	mu    sync.Mutex
	names map[string]*entry
}

func newLedger() *ledger { return &ledger{names: map[string]*entry{}} }

// reserve takes a name that means nothing yet.
func (l *ledger) reserve(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.names[name] == nil {
		l.names[name] = &entry{may: []*promise{nil}, mounts: []int{0}}
	}
}

// begin notes that a name is about to mean one of these.
func (l *ledger) begin(name string, may ...*promise) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.names[name]
	e.may = append(slices.Clone(e.may), may...)
}

// settle notes what a name means.
func (l *ledger) settle(name string, is *promise) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.names[name]
	if e.mayBeHalf() {
		e.half = time.Now()
	}
	e.may, e.becomes = []*promise{is}, ""
	if is == nil {
		e.mounts = []int{0}
	}
}

// mounted notes how often a layer may be mounted.
func (l *ledger) mounted(name string, may ...int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names[name].mounts = may
}

// renames notes that a layer is about to get another name.
func (l *ledger) renames(name, as string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names[name].becomes = as
}

// entry returns a copy of what is known about a name.
func (l *ledger) entry(name string) (entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.names[name]
	if e == nil {
		return entry{}, false
	}
	return *e, true
}

// all returns all names, whether they mean something or not.
func (l *ledger) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.names))
}

// there returns the names with this beginning that mean something for sure, and that fit.
func (l *ledger) there(prefix string, fits func(name string, e entry) bool) (names []string) {
	for _, name := range l.all() {
		e, _ := l.entry(name)
		if strings.HasPrefix(name, prefix) && e.is() != nil && fits(name, e) {
			names = append(names, name)
		}
	}
	return names
}

// free returns the names with this beginning that mean nothing for sure.
func (l *ledger) free(prefix string) (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, e := range l.names {
		if strings.HasPrefix(name, prefix) && len(e.may) == 1 && e.may[0] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// children returns the names of those that have name as parent, or may have.
func (l *ledger) children(name string) (children []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for child, e := range l.names {
		if slices.ContainsFunc(e.may, func(p *promise) bool { return p != nil && p.parent == name && !p.orphan }) {
			children = append(children, child)
		}
	}
	slices.Sort(children)
	return children
}

// bereave notes that the parent of these may lose its name.
func (l *ledger) bereave(children []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range children {
		e := l.names[name]
		for i, p := range e.may {
			if p != nil {
				orphan := *p
				orphan.orphan = true
				e.may[i] = &orphan
			}
		}
	}
}

// is returns what the name means for sure, nil if that is nothing or not sure.
func (e entry) is() *promise {
	if len(e.may) != 1 {
		return nil
	}
	return e.may[0]
}

// mayBeHalf tells whether the layer may have been filled in part.
func (e entry) mayBeHalf() bool { return e.mayBe(func(p *promise) bool { return p != nil && p.half }) }

// readable tells whether it is known what clients see in the layer.
func (e entry) readable() bool {
	return e.is() != nil && !e.is().half && !e.is().mapped && e.is().tree != nil
}

// anything fits every name.
func anything(string, entry) bool { return true }

// mayBe tells whether one of the things that a name may mean fits.
func (e entry) mayBe(fits func(p *promise) bool) bool { return slices.ContainsFunc(e.may, fits) }

// choose returns one of names, "" if there is none.
func choose(rnd *rand.Rand, names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[rnd.IntN(len(names))]
}

// slots reserves all names with this beginning that a client uses.
func (l *ledger) slots(prefix string) {
	for i := range slots {
		l.reserve(fmt.Sprintf("%s%02d", prefix, i))
	}
}

// depth returns how many layers lie below a name.
func (l *ledger) depth(name string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ; n <= maxDepth; n++ {
		e := l.names[name]
		if e == nil || e.may[0] == nil || e.may[0].parent == "" {
			break
		}
		name = e.may[0].parent
	}
	return n
}

// fix notes that a layer has, or may get, a child, and so is not written to any more.
func (l *ledger) fix(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.names[name]
	fixed := *e.may[0]
	fixed.fixed = true
	e.may = []*promise{&fixed}
}

// mayBeMounted tells whether somebody may have it mounted.
func (e entry) mayBeMounted() bool {
	return slices.ContainsFunc(e.mounts, func(n int) bool { return n > 0 })
}
