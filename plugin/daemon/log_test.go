package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"gotest.tools/v3/assert"

	"strata/plugin"
)

// TestSplitLog: dockerd tells errors of a plugin by where they were written, and an administrator knows the host's paths.
func TestSplitLog(t *testing.T) {
	logger := keepLogger(t)
	var info, errs bytes.Buffer
	finish := splitLog(&info, &errs, plugin.Renamer(map[string]string{"/data": "/var/lib"}))
	entry := logrus.NewEntry(logger).WithError(errors.New("open /data/x: no"))
	entry.Warn("careful")
	entry.Error("broken")
	finish()
	for _, tc := range []struct{ text, want, not string }{
		{info.String(), "careful", "broken"},
		{errs.String(), "broken", "careful"},
	} {
		assert.Assert(t, strings.Contains(tc.text, tc.want) && !strings.Contains(tc.text, tc.not), "%s", tc.text)
		assert.Assert(t, strings.Contains(tc.text, "/var/lib/x") && strings.Count(tc.text, "\n") == 1, "%s", tc.text)
	}
}

// keepLogger returns the process's logger, and gives it back as it is at the end.
func keepLogger(t *testing.T) *logrus.Logger {
	t.Helper()
	logger := log.L.Logger
	out, hooks, level := logger.Out, logger.Hooks, logger.GetLevel()
	logger.SetLevel(logrus.InfoLevel)
	t.Cleanup(func() {
		logger.SetOutput(out)
		logger.ReplaceHooks(hooks)
		logger.SetLevel(level)
	})
	return logger
}

// stuck is a log that nobody reads until it is closed.
type stuck struct {
	read chan struct{}
	text bytes.Buffer
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.read
	return s.text.Write(p)
}

// TestNobodyReadsTheLog: whoever logs does not wait for the log's reader, and the log says what is missing.
func TestNobodyReadsTheLog(t *testing.T) {
	logger := keepLogger(t)
	s := &stuck{read: make(chan struct{})}
	finish := splitLog(s, s, func(text string) string { return text })
	const lines = 2*logQueue + 100
	for i := range lines {
		logger.WithField("line", i).Error("broken")
	}
	close(s.read)
	finish()
	text := s.text.String()
	written := strings.Count(text, "msg=broken")
	assert.Assert(t, written >= logQueue && written < lines, "%d", written)
	assert.Assert(t, strings.Contains(text, "line=0\n") && strings.Contains(text, fmt.Sprintf("lines=%d\n", lines-written)), "%.500s", text)
}
