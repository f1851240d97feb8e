package daemon

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"gotest.tools/v3/assert"

	"strata/backend/store"
	"strata/plugin/control"
)

// crowd is many clients of one daemon, on all its protocols.
type crowd struct {
	docker  *http.Client
	sn      snapshots.Snapshotter
	control *control.Client
}

func newCrowd(t *testing.T, p *process, snapshotterSocket string) *crowd {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", p.socket)
	}}
	conn, err := grpc.NewClient("unix://"+snapshotterSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	assert.NilError(t, err)
	t.Cleanup(func() {
		assert.Check(t, conn.Close())
		transport.CloseIdleConnections()
	})
	return &crowd{&http.Client{Transport: transport}, proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "strata"), p.client}
}

// call is a call of dockerd's. What it answers is thrown away, but for an error.
func (c *crowd) call(ctx context.Context, method string, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://x/GraphDriver."+method, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.docker.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", method, text)
	}
	return err
}

// inOrder runs steps until one fails.
func inOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// asDocker pulls a layer on the shared one, runs a container on it, commits that, and removes everything.
func (c *crowd) asDocker(ctx context.Context, n int, layer []byte) error {
	image, container := dockerID(n, 'a'), dockerID(n, 'c')
	call := func(method, id, parent string) func() error {
		return func() error { return c.call(ctx, method, fmt.Appendf(nil, `{"ID":%q,"Parent":%q}`, id, parent)) }
	}
	return inOrder(
		call("Create", image, aaa),
		func() error { return c.call(ctx, "ApplyDiff?id="+image+"&parent="+aaa, layer) },
		call("CreateReadWrite", container, image),
		call("Get", container, ""), call("Get", aaa, ""), call("Changes", container, image), call("Diff", container, image),
		call("DiffSize", container, image), call("Diff", image, aaa), call("GetMetadata", image, ""), call("Exists", container, ""),
		call("Put", container, ""), call("Put", aaa, ""), call("Remove", container, ""), call("Status", "", ""), call("Remove", image, ""),
	)
}

func dockerID(n int, kind byte) string { return fmt.Sprintf("%c%063d", kind, n) }

// asContainerd makes a snapshot on the shared one, labels both, commits it, looks at it, and removes everything.
func (c *crowd) asContainerd(ctx context.Context, n int) error {
	key, name, view, own := fmt.Sprint("key", n), fmt.Sprint("name", n), fmt.Sprint("view", n), fmt.Sprint("l", n)
	labels := map[string]string{own: "1"}
	update := func(name string) func() error {
		return func() error {
			i, err := c.sn.Update(ctx, snapshots.Info{Name: name, Labels: labels}, "labels."+own)
			if err == nil && i.Labels[own] != "1" {
				err = fmt.Errorf("update of %s is lost: %v", name, i.Labels)
			}
			return err
		}
	}
	return inOrder(
		func() error { return second(c.sn.Prepare(ctx, key, "image", snapshots.WithLabels(labels))) },
		func() error { return second(c.sn.Mounts(ctx, key)) },
		update(key), update("image"),
		func() error { return second(c.sn.Usage(ctx, key)) },
		func() error { return c.sn.Commit(ctx, name, key) },
		func() error { return second(c.sn.View(ctx, view, name)) },
		func() error {
			i, err := c.sn.Stat(ctx, name)
			if err == nil && i.Kind != snapshots.KindCommitted {
				err = fmt.Errorf("%s is %v", name, i.Kind)
			}
			return err
		},
		func() error { return c.sn.Walk(ctx, func(context.Context, snapshots.Info) error { return nil }) },
		func() error { return c.sn.Remove(ctx, view) },
		func() error { return c.sn.Remove(ctx, name) },
	)
}

// asOperator looks at everything, and copies the shared layer.
func (c *crowd) asOperator(ctx context.Context, n int) error {
	copied := dockerID(n, 'e')
	return inOrder(
		func() error { return second(c.control.List(ctx)) },
		func() error { return second(c.control.Describe(ctx)) },
		func() error { return second(c.control.Stat(ctx, aaa)) },
		func() error {
			return c.control.Clone(ctx, copied, aaa, store.CreateOptions{Labels: map[string]string{"a": "1"}})
		},
		func() error { return second(c.control.Usage(ctx, copied)) },
		func() error { return c.control.Diff(ctx, copied, "", io.Discard) },
		func() error { return c.control.SetIDMap(ctx, copied, nil) },
		func() error { return second(c.control.Check(ctx, store.CheckOptions{})) },
		func() error { return second(c.control.GC(ctx, store.GCOptions{})) },
		func() error { return second(c.control.Leaving(ctx)) },
		func() error { return c.call(ctx, "Remove", fmt.Appendf(nil, `{"ID":%q}`, copied)) },
	)
}

func second[T any](_ T, err error) error { return err }

// TestManyClientsAtOnce: dockerd, containerd and people at one store, each with several requests at once. No request fails, no label is
// lost, and only what is shared remains.
func TestManyClientsAtOnce(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	socket := filepath.Join(dir, "snapshotter.sock")
	p := start(t, filepath.Join(dir, "strata"), nil, []string{"log-level=error", "snapshotter-socket=" + socket})
	assert.NilError(t, p.init("sync=none"))
	c := newCrowd(t, p, socket)
	ctx := t.Context()
	layer := smallLayer(t)
	assert.NilError(t, c.call(ctx, "Create", fmt.Appendf(nil, `{"ID":%q}`, aaa)))
	assert.NilError(t, c.call(ctx, "ApplyDiff?id="+aaa+"&parent=", layer))
	_, err := c.sn.Prepare(ctx, "draft", "")
	assert.NilError(t, err)
	assert.NilError(t, c.sn.Commit(ctx, "image", "draft"))

	const clients, rounds = 4, 5
	var g errgroup.Group
	for client := range clients {
		for what, work := range map[string]func(n int) error{
			"dockerd":    func(n int) error { return c.asDocker(ctx, n, layer) },
			"containerd": func(n int) error { return c.asContainerd(ctx, n) },
			"operator":   func(n int) error { return c.asOperator(ctx, n) },
		} {
			g.Go(func() error {
				for round := range rounds {
					if err := work(client*rounds + round); err != nil {
						return fmt.Errorf("%s: client %d, round %d: %w", what, client, round, err)
					}
				}
				return nil
			})
		}
	}
	assert.NilError(t, g.Wait())

	image, err := c.sn.Stat(ctx, "image")
	assert.NilError(t, err)
	assert.Equal(t, len(image.Labels), clients*rounds, "%v", image.Labels)
	list, err := c.control.List(ctx)
	assert.NilError(t, err)
	var names []string
	for _, l := range list {
		names = append(names, l.Name)
		assert.Equal(t, l.Mounts, 0, "%s", l.Name)
	}
	assert.DeepEqual(t, names, []string{aaa, "containerd/image"})
	found, err := c.control.Check(ctx, store.CheckOptions{Deep: true})
	assert.NilError(t, err)
	assert.Equal(t, len(found), 0, "%v", found)
}

// smallLayer is a tar with a directory and some files.
func smallLayer(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	text := strings.Repeat("text", 1000)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o755})
	for i := range 20 {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: fmt.Sprint("d/", i), Mode: 0o644, Size: int64(len(text))}), second(io.WriteString(w, text)))
	}
	assert.NilError(t, errors.Join(err, w.Close()))
	return b.Bytes()
}
