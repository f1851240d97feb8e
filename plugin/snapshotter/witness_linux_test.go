package snapshotter

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/diff/proxy"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	snapshotsproxy "github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	"gotest.tools/v3/assert"

	"strata/plugin"
)

// heard is what a log and an observer were told.
type heard struct {
	mu    sync.Mutex
	lines []string
	calls []string
}

func (h *heard) Levels() []logrus.Level { return logrus.AllLevels }

func (h *heard) Fire(e *logrus.Entry) error {
	if e.Data["protocol"] == nil {
		return nil // not about a call
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, fmt.Sprintf("%s: %s (%v, %v)", e.Level, e.Message, e.Data["snapshot"], e.Data["class"]))
	return nil
}

func (h *heard) ObserveCall(c plugin.Call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, fmt.Sprintf("%s.%s in=%t out=%t %s", c.Protocol, c.Op, c.In > 0, c.Out > 0, plugin.Class(c.Err)))
}

// listen tells h what is logged until the test ends.
func (h *heard) listen(t *testing.T) {
	t.Helper()
	logger := log.L.Logger
	level, hooks := logger.Level, logger.Hooks
	t.Cleanup(func() {
		logger.SetLevel(level)
		logger.ReplaceHooks(hooks)
	})
	added := make(logrus.LevelHooks)
	added.Add(h)
	logger.ReplaceHooks(added)
	logger.SetLevel(logrus.DebugLevel)
}

// Each call of containerd's is a line in the log and is counted; what it may expect to fail is no error.
func TestCallsAreLoggedAndCounted(t *testing.T) {
	r := newRig(t, Options{})
	var h heard
	h.listen(t)
	conn := dial(t, r.Snapshotter, NewDiffer(r.Snapshotter, nil), &h)
	client := snapshotsproxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "strata")
	ctx := t.Context()
	_, err := client.Stat(ctx, "new")
	assert.Assert(t, errdefs.IsNotFound(err))
	_, err = client.Prepare(ctx, "new", "no such parent")
	assert.Assert(t, errdefs.IsNotFound(err))
	_, err = client.Prepare(ctx, "new", "")
	assert.NilError(t, err)
	assert.NilError(t, client.Commit(ctx, "done", "new"))
	_, err = client.Mounts(ctx, "done")
	assert.Assert(t, errdefs.IsFailedPrecondition(err))
	_, err = client.Update(ctx, snapshots.Info{Name: "done", Labels: map[string]string{"strata/kind": "active"}}, "labels.strata/kind")
	assert.Assert(t, errdefs.IsInvalidArgument(err))
	assert.NilError(t, client.Walk(ctx, func(context.Context, snapshots.Info) error { return nil }))
	assert.NilError(t, client.Remove(ctx, "done"))
	applier, ok := proxy.NewDiffApplier(diffapi.NewDiffClient(conn)).(diff.Applier)
	assert.Assert(t, ok)
	_, err = applier.Apply(ctx, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer},
		[]mount.Mount{{Type: "bind", Source: "/not/of/this/store"}})
	assert.Assert(t, errdefs.IsNotImplemented(err), "%v", err)

	h.mu.Lock()
	defer h.mu.Unlock()
	slices.Sort(h.calls)
	assert.DeepEqual(t, h.lines, []string{
		"debug: Stat answered with an error (new, not-found)",
		"error: Prepare failed (new, not-found)",
		"debug: Prepare done (new, <nil>)",
		"debug: Commit done (new, <nil>)",
		"error: Mounts failed (done, failed-precondition)",
		"error: Update failed (done, invalid-argument)",
		"debug: List done (<nil>, <nil>)",
		"debug: Remove done (done, <nil>)",
		"debug: Apply answered with an error (<nil>, not-implemented)",
	})
	assert.DeepEqual(t, h.calls, []string{
		"diff.Apply in=false out=false not-implemented",
		"snapshots.Commit in=false out=false ",
		"snapshots.List in=false out=false ",
		"snapshots.Mounts in=false out=false failed-precondition",
		"snapshots.Prepare in=false out=false ",
		"snapshots.Prepare in=false out=false not-found",
		"snapshots.Remove in=false out=false ",
		"snapshots.Stat in=false out=false not-found",
		"snapshots.Update in=false out=false invalid-argument",
	})
}
