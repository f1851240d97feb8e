package daemon

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// Bounds of what waits to be written to the log.
const (
	logQueue    = 1024        // lines
	logPatience = time.Second // that the end of the process waits for them
)

// splitLog makes the process log errors to one writer and all else to another, in the host's words. dockerd takes what a
// plugin writes to standard error for errors, and the rest for information (moby plugin/executor/containerd). No call waits for
// whoever reads the log: what stands behind a pipe may have stopped reading. Lines wait in a queue, and when that is full they are left
// out, which the next line that is written says. finish waits a moment for the queue, and leaves what is logged later to nobody.
func splitLog(out, errs io.Writer, words func(text string) string) (finish func()) {
	logger := log.L.Logger
	s := &logSplitter{out: out, errs: errs, words: words, queue: make(chan logLine, logQueue), stop: make(chan struct{}), done: make(chan struct{})}
	hooks := make(logrus.LevelHooks)
	hooks.Add(s)
	logger.ReplaceHooks(hooks)
	logger.SetOutput(io.Discard) // the hook writes
	go s.write()
	return func() {
		close(s.stop)
		select {
		case <-s.done:
		case <-time.After(logPatience):
		}
	}
}

// outliveLog lets the process go on when nobody reads its log any more, as when journald is started anew: Go ends a process that
// writes to a broken pipe on standard output or standard error, whatever systemd says of SIGPIPE (os/signal, "SIGPIPE"). The
// signal is caught, not ignored, so that helper programs do not inherit that. restore undoes it.
func outliveLog() (restore func()) {
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	return func() { signal.Stop(broken) }
}

// logLine is a line of the log, and where it goes.
type logLine struct {
	to   io.Writer
	text string
}

// logSplitter is a hook that passes log entries on to a goroutine, which writes them.
type logSplitter struct {
	words     func(text string) string
	out, errs io.Writer

	queue   chan logLine
	leftOut atomic.Int64  // lines that found no room, and of which the log does not say so yet
	stop    chan struct{} // closed when nothing more is logged
	done    chan struct{} // closed when all is written
}

// Levels implements logrus.Hook.
func (*logSplitter) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook.
func (s *logSplitter) Fire(e *logrus.Entry) error {
	text, err := e.Logger.Formatter.Format(e)
	if err != nil {
		return fmt.Errorf("format log entry: %w", err)
	}
	line := logLine{s.out, s.words(string(text))}
	if e.Level <= logrus.ErrorLevel {
		line.to = s.errs
	}
	select {
	case s.queue <- line:
	default:
		s.leftOut.Add(1)
	}
	return nil
}

// write writes lines until stop is closed and the queue is empty. An error of a writer is nobody's concern: there is nowhere to tell it.
func (s *logSplitter) write() {
	defer close(s.done)
	for {
		select {
		case line := <-s.queue:
			s.put(line)
		case <-s.stop:
			for len(s.queue) > 0 {
				s.put(<-s.queue)
			}
			return
		}
	}
}

func (s *logSplitter) put(line logLine) {
	_, _ = io.WriteString(line.to, line.text)
	if n := s.leftOut.Swap(0); n > 0 {
		const text = "time=%q level=warning msg=\"nobody read the log in time, and lines are missing here\" lines=%d\n"
		_, _ = fmt.Fprintf(s.out, text, time.Now().Format(time.RFC3339Nano), n)
	}
}
