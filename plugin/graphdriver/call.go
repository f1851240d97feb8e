package graphdriver

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"strata/plugin"
)

// arguments of every JSON method but Init.
type arguments struct {
	ID         string
	Parent     string
	MountLabel string
	StorageOpt map[string]string
}

// reply is the response of every JSON method. Docker takes a missing field for its zero value.
type reply struct {
	Dir          string            `json:",omitempty"`
	Exists       bool              `json:",omitempty"`
	Status       [][2]string       `json:",omitempty"`
	Size         int64             `json:",omitempty"`
	Metadata     map[string]string `json:",omitempty"`
	Capabilities *capability       `json:",omitempty"`
	Implements   []string          `json:",omitempty"`
}

type capability struct{ ReproducesExactDiffs bool }

// call is one request on its way.
type call struct {
	w     *plugin.Response
	r     *http.Request
	op    string
	layer string // for the log, once it is known

	in, out int64 // bytes of tar
}

// Write sends a part of a tar.
func (c *call) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.out += int64(n)
	return n, err
}

// Read receives a part of a tar.
func (c *call) Read(b []byte) (int, error) {
	n, err := c.r.Body.Read(b)
	c.in += int64(n)
	return n, err
}

func (c *call) reply(v any) error { return plugin.WriteJSON(c.w, http.StatusOK, v) }

// name notes which layer the call is about. What is no layer's name is not for the log.
func (c *call) name(id string) {
	if checkID(id) == nil {
		c.layer = id
	}
}

// identified is an argument that names a layer.
type identified interface{ layer() string }

func (a arguments) layer() string { return a.ID }

// endpoint makes the handler of a method with arguments of type Q.
func endpoint[Q any](h *Handler, op string, do func(ctx context.Context, q Q) (reply, error)) http.Handler {
	return h.serve(op, func(ctx context.Context, c *call) error {
		var q Q
		if err := plugin.ReadJSON(c.w, c.r, &q); err != nil {
			return err
		}
		if a, ok := any(q).(identified); ok {
			c.name(a.layer())
		}
		res, err := do(ctx, q)
		if err != nil {
			return err
		}
		return c.reply(res)
	})
}

// bare makes the handler of a method without arguments. It may be retried with any body.
func bare(h *Handler, op string, do func(ctx context.Context) (reply, error)) http.Handler {
	return h.serve(op, func(ctx context.Context, c *call) error {
		if _, err := plugin.Body(c.w, c.r); err != nil {
			return err
		}
		res, err := do(ctx)
		if err != nil {
			return err
		}
		return c.reply(res)
	})
}

// serve does for every method what comes before and after: it answers with the error, logs,
// counts, and cuts the connection of a response that broke off.
func (h *Handler) serve(op string, do func(ctx context.Context, c *call) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{w: plugin.Watch(w), r: r, op: op}
		start := time.Now()
		err := do(r.Context(), c)
		took := time.Since(start)
		plugin.Call{
			Protocol: plugin.ProtocolGraphDriver, Op: op, Fields: h.fields(c), Took: took, In: c.in, Out: c.out, Err: err,
		}.Report(r.Context(), h.o.Observer)
		if err == nil {
			return
		}
		if c.w.Begun() {
			c.w.Cut()
		}
		status := http.StatusInternalServerError
		if errdefs.IsInvalidArgument(err) {
			status = http.StatusBadRequest
		}
		c.w.Reset()
		told := errors.New(h.o.HostText(err.Error()))
		_ = plugin.WriteError(c.w, status, told) // the error is logged; who does not listen need not know it
	})
}

// fields says what a call was about, for the log.
func (h *Handler) fields(c *call) log.Fields {
	f := log.Fields{}
	if c.layer != "" {
		f["layer"] = c.layer
	}
	if a := h.keeper.current(); a != nil {
		f["backend"] = a.info.Backend
	}
	return f
}

var (
	_ io.Reader = (*call)(nil)
	_ io.Writer = (*call)(nil)
)
