// Package unixhttp calls a server of HTTP on a unix socket, such as Docker or a plugin of its, as their own clients do but
// without what these do besides. The docker command would add some thirty milliseconds to everything, and
// dockerd's client of plugins repeats calls.
package unixhttp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
)

// longestRefusal bounds how much of an answer that is an error is read, bytes.
const longestRefusal = 64 << 10

// Client calls a server on one socket. Safe for concurrent use.
type Client struct{ http *http.Client }

// Dial makes a client. It connects when first used.
func Dial(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &Client{&http.Client{Transport: &http.Transport{DialContext: dial, WriteBufferSize: 1 << 20, ReadBufferSize: 1 << 20}}}
}

// Refusal is an answer whose status is an error.
type Refusal struct {
	Request string // method and path
	Status  int
	Text    string // the body, without blanks around it
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("%s: %d %s: %s", r.Request, r.Status, http.StatusText(r.Status), r.Text)
}

// Call sends a request and hands the body of the answer to read, which is to read it to its end. A *Refusal if the server
// answers with an error.
func (c *Client) Call(ctx context.Context, method, path, contentType string, body io.Reader, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, body)
	if err != nil {
		return err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read says whether it came whole
	if resp.StatusCode >= http.StatusBadRequest {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, longestRefusal)) // what there is of it
		return &Refusal{Request: method + " " + path, Status: resp.StatusCode, Text: string(bytes.TrimSpace(text))}
	}
	if err := read(resp.Body); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// JSON sends in, unless it is nil, and decodes the answer into out, unless that is nil.
func (c *Client) JSON(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	return c.Call(ctx, method, path, "application/json", body, func(r io.Reader) error {
		b, err := io.ReadAll(r)
		if err != nil || out == nil || len(bytes.TrimSpace(b)) == 0 {
			return err
		}
		return json.Unmarshal(b, out)
	})
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Drain reads an answer to its end and forgets it.
func Drain(r io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, make([]byte, 1<<20))
	return err
}
