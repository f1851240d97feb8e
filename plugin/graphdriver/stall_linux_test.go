package graphdriver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"strata/backend/backendtest"
	"strata/plugin/control"
)

// TestRemoveBesideStalledClients: a client that neither reads nor writes does not keep a layer from being removed.
func TestRemoveBesideStalledClients(t *testing.T) {
	d := newDisk(t, false)
	d.wrap = func(h http.Handler) http.Handler {
		open := func(ctx context.Context) (control.Store, error) { return d.k.Store(ctx) }
		admin := control.New(control.Options{Store: open, Metrics: control.NewMetrics(control.Version{}, open)})
		mux := http.NewServeMux()
		mux.Handle("/strata/", admin)
		mux.Handle("/", h)
		return mux
	}
	d.restart(t)
	d.init()
	body, err := json.Marshal(arguments{ID: id("layer")})
	assert.NilError(t, err)
	for _, request := range []string{
		fmt.Sprintf("POST /GraphDriver.ApplyDiff?id=%s&parent= HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", id("layer")),
		fmt.Sprintf("POST /GraphDriver.Diff HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body),
		fmt.Sprintf("POST /GraphDriver.Changes HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body),
		fmt.Sprintf("GET /strata/v1/layers/%s/diff HTTP/1.1\r\nHost: x\r\n\r\n", id("layer")),
		fmt.Sprintf("GET /strata/v1/layers/%s/changes HTTP/1.1\r\nHost: x\r\n\r\n", id("layer")),
	} {
		d.create("layer", "")
		fill := d.write
		if strings.Contains(request, "ApplyDiff") {
			fill = func(string, backendtest.Step) {}
		}
		fill("layer", func(dir string) error { // more than a socket takes at once, as data and as names
			err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 8<<20), 0o600)
			for n := 0; n < 3000 && err == nil; n++ {
				err = os.Mkdir(filepath.Join(dir, fmt.Sprintf("%0200d", n)), 0o700)
			}
			return err
		})
		conn, err := net.Dial("unix", d.path)
		assert.NilError(t, err)
		_, err = io.WriteString(conn, request)
		assert.NilError(t, err)
		time.Sleep(time.Second) // until the stream stands still
		start := time.Now()
		d.ok("Remove", arguments{ID: id("layer")})
		assert.Check(t, time.Since(start) < 5*time.Second, "%s: %v", request, time.Since(start))
		assert.NilError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		answer, err := io.ReadAll(conn)
		assert.Check(t, err)
		assert.Check(t, !bytes.HasSuffix(answer, []byte("\r\n0\r\n\r\n")), "%s: the answer looks whole", request)
		assert.NilError(t, conn.Close())
	}
}
