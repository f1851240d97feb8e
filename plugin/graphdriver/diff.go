package graphdriver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"

	"github.com/containerd/errdefs"

	"strata/plugin"
)

// streamBuffer is how many bytes of a tar are kept on their way. A Diff that fails within its first
// streamBuffer bytes can still be answered with the reason.
const streamBuffer = 256 << 10

func (h *Handler) diff(ctx context.Context, c *call) error {
	var q arguments
	if err := plugin.ReadJSON(c.w, c.r, &q); err != nil {
		return err
	}
	c.name(q.ID)
	if err := checkIDs(q.ID, q.Parent); err != nil {
		return err
	}
	a, err := h.attached(ctx)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/x-tar")
	w := bufio.NewWriterSize(c, streamBuffer)
	if err := a.Diff(ctx, q.ID, q.Parent, w); err != nil {
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
	a, err := h.attached(ctx)
	if err != nil {
		return err
	}
	body := bufio.NewReaderSize(c, streamBuffer)
	if _, err := body.Peek(1); errors.Is(err, io.EOF) {
		return fmt.Errorf("apply to layer %s: the stream is empty (a retry of a call that was cut off?): %w", id, errdefs.ErrInvalidArgument)
	}
	size, err := a.Apply(ctx, id, body)
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

func (h *Handler) changes(ctx context.Context, q arguments) (reply, error) {
	if err := checkIDs(q.ID, q.Parent); err != nil {
		return reply{}, err
	}
	a, err := h.attached(ctx)
	if err != nil {
		return reply{}, err
	}
	list, err := a.Changes(ctx, q.ID, q.Parent)
	return reply{Changes: list}, err
}

func (h *Handler) diffSize(ctx context.Context, q arguments) (reply, error) {
	if err := checkIDs(q.ID, q.Parent); err != nil {
		return reply{}, err
	}
	a, err := h.attached(ctx)
	if err != nil {
		return reply{}, err
	}
	size, err := a.DiffSize(ctx, q.ID, q.Parent)
	return reply{Size: size}, err
}
