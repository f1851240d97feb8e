package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"strata/test/unixhttp"
)

// api is Docker's API, or a plugin's.
type api struct{ *unixhttp.Client }

func newAPI(socket string) *api { return &api{unixhttp.Dial(socket)} }

// stream drains an answer that reports errors in its text.
func stream(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err == nil && bytes.Contains(b, []byte(`"errorDetail"`)) {
		err = fmt.Errorf("%s", bytes.TrimSpace(b))
	}
	return err
}

func (a *api) load(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	return a.Call(ctx, http.MethodPost, "/images/load?quiet=1", "application/x-tar", f, stream)
}

func (a *api) save(ctx context.Context, image string) error {
	return a.Call(ctx, http.MethodGet, "/images/"+image+"/get", "", nil, unixhttp.Drain)
}

func (a *api) removeImage(ctx context.Context, image string) error {
	return a.JSON(ctx, http.MethodDelete, "/images/"+url.PathEscape(image)+"?force=1", nil, nil)
}

// create makes a container that runs a shell script, and returns its ID.
func (a *api) create(ctx context.Context, image, script string) (string, error) {
	config := map[string]any{
		"Image": image, "Cmd": []string{"sh", "-c", script}, "NetworkDisabled": true,
		"HostConfig": map[string]any{"NetworkMode": "none"},
	}
	var c struct{ ID string }
	err := a.JSON(ctx, http.MethodPost, "/containers/create", config, &c)
	return c.ID, err
}

// startAndWait runs a container to its end, which must be a success.
func (a *api) startAndWait(ctx context.Context, id string) error {
	if err := a.JSON(ctx, http.MethodPost, "/containers/"+id+"/start", nil, nil); err != nil {
		return err
	}
	var end struct{ StatusCode int }
	if err := a.JSON(ctx, http.MethodPost, "/containers/"+id+"/wait", nil, &end); err != nil {
		return err
	}
	if end.StatusCode != 0 {
		return fmt.Errorf("container %s ended with %d", id, end.StatusCode)
	}
	return nil
}

func (a *api) remove(ctx context.Context, id string) error {
	return a.JSON(ctx, http.MethodDelete, "/containers/"+id+"?force=1", nil, nil)
}

// changes counts what `docker diff` lists.
func (a *api) changes(ctx context.Context, id string) (int, error) {
	var list []struct{ Path string }
	err := a.JSON(ctx, http.MethodGet, "/containers/"+id+"/changes", nil, &list)
	return len(list), err
}

func (a *api) commit(ctx context.Context, id, repo string) error {
	return a.JSON(ctx, http.MethodPost, "/commit?container="+id+"&repo="+repo+"&pause=0", nil, nil)
}

// build runs the classic builder on a context that is a tar.
func (a *api) build(ctx context.Context, tag, contextTar string) error {
	return a.Call(ctx, http.MethodPost, "/build?nocache=1&rm=1&networkmode=none&t="+tag, "application/x-tar", strings.NewReader(contextTar), stream)
}
