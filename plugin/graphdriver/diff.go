package graphdriver

import (
	"bufio"
	"context"
	"fmt"
	"net/url"

	"github.com/containerd/errdefs"
	"github.com/docker/go-plugins-helpers/sdk"

	"strata/plugin"
)

// streamBuffer is how many bytes of a tar or a list are kept on their way. A call that fails within its first
// streamBuffer bytes can still be answered with the reason.
const streamBuffer = 256 << 10

// pair reads the request for a comparison of two layers.
func (h *Handler) pair(ctx context.Context, c *call) (q arguments, a *attachment, err error) {
	if err := plugin.ReadJSON(c.w, c.r, &q); err != nil {
		return q, nil, err
	}
	c.name(q.ID)
	if err := checkIDs(q.ID, q.Parent); err != nil {
		return q, nil, err
	}
	a, err = h.keeper.session(ctx)
	return q, a, err
}

func (h *Handler) diff(ctx context.Context, c *call) error {
	q, a, err := h.pair(ctx, c)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/x-tar")
	w := bufio.NewWriterSize(c, streamBuffer)
	ctx, done := plugin.Writing(c.w, c.r)
	err = a.Diff(ctx, q.ID, q.Parent, w) //nolint:contextcheck // it is made of the request's
	done()
	if err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("diff layer %s: %w", q.ID, err)
	}
	return nil
}

func (h *Handler) applyDiff(ctx context.Context, c *call) error {
	query := c.r.URL.Query()
	id, err := single(query, "id")
	if err != nil {
		return err
	}
	parent, err := single(query, "parent")
	if err != nil {
		return err
	}
	c.name(id)
	if err := checkIDs(id, parent); err != nil {
		return err
	}
	a, err := h.keeper.session(ctx)
	if err != nil {
		return err
	}
	ctx, done := plugin.Reading(c.w, c.r)
	// Docker sends what is left of a broken stream again, perhaps nothing. The store refuses that: the layer is not fresh.
	size, err := a.Apply(ctx, id, c) //nolint:contextcheck // it is made of the request's
	done()
	if err != nil {
		return err
	}
	return c.reply(reply{Size: size})
}

// single returns the one value of a query's key, "" if there is none.
func single(query url.Values, key string) (string, error) {
	if len(query[key]) > 1 {
		return "", fmt.Errorf("%d values for %s: %w", len(query[key]), key, errdefs.ErrInvalidArgument)
	}
	return query.Get(key), nil
}

// changes answers with a reply that has Changes alone, written as they are found.
func (h *Handler) changes(ctx context.Context, c *call) error {
	q, a, err := h.pair(ctx, c)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", sdk.DefaultContentTypeV1_1)
	w := bufio.NewWriterSize(c.w, streamBuffer)
	_, err = w.WriteString(`{"Changes":`)
	if err == nil {
		ctx, done := plugin.Writing(c.w, c.r)
		err = plugin.WriteArray(w, a.Changes(ctx, q.ID, q.Parent), "") //nolint:contextcheck // it is made of the request's
		done()
	}
	if err != nil {
		return err
	}
	if _, err = w.WriteString("}\n"); err == nil {
		err = w.Flush()
	}
	if err != nil {
		return fmt.Errorf("changes of layer %s: %w", q.ID, err)
	}
	return nil
}

func (h *Handler) diffSize(ctx context.Context, q arguments) (reply, error) {
	if err := checkIDs(q.ID, q.Parent); err != nil {
		return reply{}, err
	}
	a, err := h.keeper.session(ctx)
	if err != nil {
		return reply{}, err
	}
	size, err := a.DiffSize(ctx, q.ID, q.Parent)
	return reply{Size: size}, err
}
