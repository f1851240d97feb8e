package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/store"
	"strata/plugin/config"
)

// dialTimeout is how long a socket may take to accept a connection: the plugin listens before it
// does anything else.
const dialTimeout = 3 * time.Second

// Client talks to a running plugin. It is a [Store] and a [Settings]. Safe for concurrent use.
type Client struct {
	http http.Client
}

// Dial makes a client for the plugin on a unix socket. It connects when first used; that fails with
// ErrUnavailable if nobody answers.
func Dial(socket string) *Client {
	d := net.Dialer{Timeout: dialTimeout}
	return &Client{http.Client{Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) },
		DisableCompression: true,
	}}}
}

// Close lets go of idle connections.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// do sends a request and returns the answer if its status is 200.
func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		payload = bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://strata"+prefix+path, payload)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		var u *url.Error
		switch {
		case !errors.As(err, &u) || ctx.Err() != nil:
			return nil, err
		case errors.Is(err, fs.ErrPermission):
			return nil, fmt.Errorf("ask plugin: %w, which only root has: %w", u.Err, errdefs.ErrPermissionDenied)
		}
		return nil, fmt.Errorf("ask plugin: %w: %w", u.Err, errdefs.ErrUnavailable)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, wireError(resp)
}

// wireError reads the error in an answer's body.
func wireError(resp *http.Response) error {
	const longest = 64 << 10 // bytes; more of an error nobody reads
	text, err := io.ReadAll(io.LimitReader(resp.Body, longest))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	e := &Error{}
	if json.Unmarshal(text, e) != nil || e.Text == "" {
		return fmt.Errorf("answer %s, which is not Strata's: %q: %w", resp.Status, text, errdefs.ErrUnavailable)
	}
	return e
}

// call sends a request and decodes the answer.
func call[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var result T
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return result, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&result); err != nil {
		return result, fmt.Errorf("read answer: %w", err)
	}
	return result, nil
}

// follow sends a request and calls f for each event of the answer until it is done.
func (c *Client) follow(ctx context.Context, method, path string, body any, f func(event) error) error {
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var e event
		if err := d.Decode(&e); err != nil {
			return fmt.Errorf("answer was cut: %w: %w", err, errdefs.ErrUnavailable)
		}
		switch {
		case e.Error != nil:
			return e.Error
		case e.Done:
			return nil
		}
		if err := f(e); err != nil {
			return err
		}
	}
}

func layerPath(name, rest string) string { return "layers/" + url.PathEscape(name) + rest }

// Version asks which program answers.
func (c *Client) Version(ctx context.Context) (Version, error) {
	return call[Version](ctx, c, http.MethodGet, "version", nil)
}

// Describe returns the store and its surroundings.
func (c *Client) Describe(ctx context.Context) (Info, error) {
	return call[Info](ctx, c, http.MethodGet, "info", nil)
}

// Info returns the store alone.
func (c *Client) Info(ctx context.Context) (store.StoreInfo, error) {
	i, err := c.Describe(ctx)
	return i.StoreInfo, err
}

// List describes all layers.
func (c *Client) List(ctx context.Context) ([]store.Info, error) {
	return call[[]store.Info](ctx, c, http.MethodGet, "layers", nil)
}

// Stat describes one layer.
func (c *Client) Stat(ctx context.Context, name string) (store.Info, error) {
	return call[store.Info](ctx, c, http.MethodGet, layerPath(name, ""), nil)
}

// Usage returns what a layer itself occupies.
func (c *Client) Usage(ctx context.Context, name string) (backend.Usage, error) {
	return call[backend.Usage](ctx, c, http.MethodGet, layerPath(name, "/usage"), nil)
}

// Leaving lists removed layers whose data is still there.
func (c *Client) Leaving(ctx context.Context) ([]store.Leaving, error) {
	return call[[]store.Leaving](ctx, c, http.MethodGet, "leaving", nil)
}

// Path tells where a layer is mounted.
func (c *Client) Path(ctx context.Context, name string) (LayerPath, error) {
	return call[LayerPath](ctx, c, http.MethodGet, layerPath(name, "/path"), nil)
}

// Stores lists the additional read-only stores.
func (c *Client) Stores(ctx context.Context) ([]string, error) {
	return call[[]string](ctx, c, http.MethodGet, "stores", nil)
}

// EachUsage measures all layers and calls f for each as it is measured.
func (c *Client) EachUsage(ctx context.Context, f func(LayerUsage) error) error {
	return c.follow(ctx, http.MethodGet, "usage", nil, func(e event) error {
		if e.Usage == nil {
			return nil
		}
		return f(*e.Usage)
	})
}

// Changes lists the difference between a layer and parent, which may be "" for the empty tree.
func (c *Client) Changes(ctx context.Context, name, parent string) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		resp, err := c.do(ctx, http.MethodGet, layerPath(name, "/changes?parent="+url.QueryEscape(parent)), nil)
		if err != nil {
			yield(backend.Change{}, err)
			return
		}
		defer resp.Body.Close()
		for x, err := range elements[PathChange](resp.Body) {
			change := backend.Change{Path: x.Path}
			if err == nil {
				change.Kind, err = kindNamed(x.Kind)
			}
			if !yield(change, err) || err != nil {
				return
			}
		}
	}
}

// elements decodes a JSON array element by element. An error is the last one.
func elements[T any](r io.Reader) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		d := json.NewDecoder(r)
		_, err := d.Token() // the bracket
		for err == nil && d.More() {
			var e T
			if err = d.Decode(&e); err == nil && !yield(e, nil) {
				return
			}
		}
		if err == nil {
			_, err = d.Token()
		}
		if err != nil {
			var none T
			yield(none, fmt.Errorf("read answer: %w", err))
		}
	}
}

// Diff writes the difference between a layer and parent as a layer tar.
func (c *Client) Diff(ctx context.Context, name, parent string, w io.Writer) error {
	resp, err := c.do(ctx, http.MethodGet, layerPath(name, "/diff?parent="+url.QueryEscape(parent)), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("read tar of layer %s: %w", name, err)
	}
	return nil
}

// Check looks for damage; o.Progress is called as the plugin proceeds.
func (c *Client) Check(ctx context.Context, o store.CheckOptions) ([]store.Finding, error) {
	var list []store.Finding
	err := c.follow(ctx, http.MethodPost, "check", CheckRequest{Deep: o.Deep, Repair: o.Repair}, func(e event) error {
		switch {
		case e.Finding != nil:
			list = append(list, *e.Finding)
		case e.Progress != nil && o.Progress != nil:
			o.Progress(e.Progress.Done, e.Progress.Total)
		}
		return nil
	})
	return list, err
}

// members lists a set, nil for none.
func members(set map[string]bool) *[]string {
	if set == nil {
		return nil
	}
	list := make([]string, 0, len(set))
	for member, in := range set {
		if in {
			list = append(list, member)
		}
	}
	return &list
}

// GC lists orphans and, if told to, removes them.
func (c *Client) GC(ctx context.Context, o store.GCOptions) ([]store.Orphan, error) {
	q := GCRequest{Yes: o.Yes, Known: members(o.Known), Listed: members(o.Listed)}
	var list []store.Orphan
	err := c.follow(ctx, http.MethodPost, "gc", q, func(e event) error {
		if e.Orphan != nil {
			list = append(list, *e.Orphan)
		}
		return nil
	})
	return list, err
}

// Adopt lists layers that another program has made and, if told to, takes them in.
func (c *Client) Adopt(ctx context.Context, yes bool) ([]store.Adoption, error) {
	return call[[]store.Adoption](ctx, c, http.MethodPost, "adopt", AdoptRequest{yes})
}

// Clone makes a layer that is a copy of template.
func (c *Client) Clone(ctx context.Context, name, template string, o store.CreateOptions) error {
	q := CloneRequest{Template: template, Limit: o.Limit, Label: o.Label, Labels: o.Labels, IDMap: o.IDMap}
	_, err := call[store.Info](ctx, c, http.MethodPost, layerPath(name, "/clone"), q)
	return err
}

// SetIDMap changes how the owners in a layer are stored. A nil map stores them as the container sees them.
func (c *Client) SetIDMap(ctx context.Context, name string, m *backend.IDMap) error {
	_, err := call[store.Info](ctx, c, http.MethodPost, layerPath(name, "/idmap"), IDMapRequest{m})
	return err
}

// Options lists the settings in force.
func (c *Client) Options(ctx context.Context) ([]config.Setting, error) {
	return call[[]config.Setting](ctx, c, http.MethodGet, "options", nil)
}

// SetOptions changes settings.
func (c *Client) SetOptions(ctx context.Context, values map[string]string) ([]config.Outcome, error) {
	return call[[]config.Outcome](ctx, c, http.MethodPost, "options", values)
}
