package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
)

// api speaks HTTP on a unix socket: Docker's, or a plugin's. The docker command would add some
// thirty milliseconds of its own to everything.
type api struct{ client *http.Client }

func newAPI(socket string) *api {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &api{&http.Client{Transport: &http.Transport{DialContext: dial, WriteBufferSize: 1 << 20, ReadBufferSize: 1 << 20}}}
}

// call sends a request and hands the body of the answer to read, which is to read it to its end.
func (a *api) call(ctx context.Context, method, path, contentType string, body io.Reader, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, body)
	if err != nil {
		return err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read says whether it came whole
	if resp.StatusCode >= http.StatusBadRequest {
		text, _ := io.ReadAll(resp.Body) // what there is of it
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(text))
	}
	if err := read(resp.Body); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// json sends in, unless it is nil, and decodes the answer into out, unless that is nil.
func (a *api) json(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	return a.call(ctx, method, path, "application/json", body, func(r io.Reader) error {
		b, err := io.ReadAll(r)
		if err != nil || out == nil || len(bytes.TrimSpace(b)) == 0 {
			return err
		}
		return json.Unmarshal(b, out)
	})
}

// stream drains an answer that reports errors in its text.
func stream(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err == nil && bytes.Contains(b, []byte(`"errorDetail"`)) {
		err = fmt.Errorf("%s", bytes.TrimSpace(b))
	}
	return err
}

func drain(r io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, make([]byte, 1<<20))
	return err
}

func (a *api) load(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	return a.call(ctx, http.MethodPost, "/images/load?quiet=1", "application/x-tar", f, stream)
}

func (a *api) save(ctx context.Context, image string) error {
	return a.call(ctx, http.MethodGet, "/images/"+image+"/get", "", nil, drain)
}

func (a *api) removeImage(ctx context.Context, image string) error {
	return a.json(ctx, http.MethodDelete, "/images/"+url.PathEscape(image)+"?force=1", nil, nil)
}

// create makes a container that runs a shell script, and returns its ID.
func (a *api) create(ctx context.Context, image, script string) (string, error) {
	config := map[string]any{
		"Image": image, "Cmd": []string{"sh", "-c", script}, "NetworkDisabled": true,
		"HostConfig": map[string]any{"NetworkMode": "none"},
	}
	var c struct{ ID string }
	err := a.json(ctx, http.MethodPost, "/containers/create", config, &c)
	return c.ID, err
}

// startAndWait runs a container to its end, which must be a success.
func (a *api) startAndWait(ctx context.Context, id string) error {
	if err := a.json(ctx, http.MethodPost, "/containers/"+id+"/start", nil, nil); err != nil {
		return err
	}
	var end struct{ StatusCode int }
	if err := a.json(ctx, http.MethodPost, "/containers/"+id+"/wait", nil, &end); err != nil {
		return err
	}
	if end.StatusCode != 0 {
		return fmt.Errorf("container %s ended with %d", id, end.StatusCode)
	}
	return nil
}

func (a *api) remove(ctx context.Context, id string) error {
	return a.json(ctx, http.MethodDelete, "/containers/"+id+"?force=1", nil, nil)
}

// changes counts what `docker diff` lists.
func (a *api) changes(ctx context.Context, id string) (int, error) {
	var list []struct{ Path string }
	err := a.json(ctx, http.MethodGet, "/containers/"+id+"/changes", nil, &list)
	return len(list), err
}

func (a *api) commit(ctx context.Context, id, repo string) error {
	return a.json(ctx, http.MethodPost, "/commit?container="+id+"&repo="+repo+"&pause=0", nil, nil)
}

// build runs the classic builder on a context that is a tar.
func (a *api) build(ctx context.Context, tag, contextTar string) error {
	return a.call(ctx, http.MethodPost, "/build?nocache=1&rm=1&networkmode=none&t="+tag, "application/x-tar", strings.NewReader(contextTar), stream)
}
