package backendtest

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"strata/backend/internal/loopfs"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// Ledger remembers what a process holds, to find out later what it did not give back.
type Ledger struct {
	dir    string
	open   []string
	mounts []string
}

// ledgerPatience is how long a thing may take to disappear: the store deletes and closes in the
// background.
const ledgerPatience = 3 * time.Second

// Main runs a package's tests in a private temporary directory and returns the exit code for
// TestMain: that of the tests, or 1 if they left a descriptor, or a mount or loop device in that
// directory.
func Main(m interface{ Run() int }) int {
	log.L.Logger.SetLevel(logrus.WarnLevel) // suites open hundreds of stores
	code, err := runPrivate(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		return 1
	}
	return code
}

func runPrivate(m interface{ Run() int }) (code int, err error) {
	dir, err := os.MkdirTemp("", "strata-test")
	if err != nil {
		return 0, err
	}
	if err := os.Setenv("TMPDIR", dir); err != nil {
		return 0, err
	}
	before, err := takeLedger(dir)
	if err != nil {
		return 0, err
	}
	code = m.Run()
	left, err := before.Left()
	if err != nil {
		return code, err
	}
	for _, d := range loopfs.Devices(dir) {
		left = append(left, "loop device "+d)
	}
	if len(left) > 0 {
		return code, errors.New("left behind: " + strings.Join(left, ", "))
	}
	return code, os.RemoveAll(dir)
}

// NewLedger notes the open descriptors of this process and the mounts at and below dir.
func NewLedger(t testing.TB, dir string) *Ledger {
	t.Helper()
	l, err := takeLedger(dir)
	if err != nil {
		t.Fatalf("take ledger: %v", err)
	}
	return l
}

// Check fails the test if there are descriptors or mounts that were not there before.
func (l *Ledger) Check(t testing.TB) {
	t.Helper()
	left, err := l.Left()
	if err != nil {
		t.Errorf("take ledger: %v", err)
	}
	if len(left) > 0 {
		t.Errorf("left behind: %s", strings.Join(left, ", "))
	}
}

// Left lists what was not there before. It waits a few seconds for the list to become empty.
func (l *Ledger) Left() ([]string, error) {
	for deadline := time.Now().Add(ledgerPatience); ; time.Sleep(20 * time.Millisecond) {
		now, err := takeLedger(l.dir)
		if err != nil {
			return nil, err
		}
		left := append(surplus(l.open, now.open, "descriptor "), surplus(l.mounts, now.mounts, "mount ")...)
		if len(left) == 0 || time.Now().After(deadline) {
			return left, nil
		}
	}
}

func takeLedger(dir string) (*Ledger, error) {
	open, err := descriptors()
	if err != nil {
		return nil, err
	}
	mounts, err := loopfs.MountsBelow(dir)
	if err != nil {
		return nil, err
	}
	return &Ledger{dir: dir, open: open, mounts: mounts}, nil
}

// surplus returns, with the prefix, what occurs in after more often than in before.
func surplus(before, after []string, prefix string) []string {
	had := map[string]int{}
	for _, s := range before {
		had[s]++
	}
	var more []string
	for _, s := range after {
		if had[s]--; had[s] < 0 {
			more = append(more, prefix+s)
		}
	}
	return more
}
