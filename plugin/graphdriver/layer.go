package graphdriver

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"

	"strata/backend/store"
)

// create is Create and CreateReadWrite. There is no difference: BuildKit makes its writable layers
// with Create.
func (h *Handler) create(ctx context.Context, q arguments) (reply, error) {
	if err := checkIDs(q.ID, q.Parent); err != nil {
		return reply{}, err
	}
	opts, err := parseStorageOptions(q.StorageOpt)
	if err != nil {
		return reply{}, fmt.Errorf("create layer %s: %w", q.ID, err)
	}
	a, err := h.keeper.session(ctx)
	if err != nil {
		return reply{}, err
	}
	return reply{}, a.Create(ctx, q.ID, q.Parent, store.CreateOptions{
		Limit: opts.size, Label: q.MountLabel, IDMap: a.init.IDMap(),
	})
}

func (h *Handler) remove(ctx context.Context, q arguments) (reply, error) {
	if err := checkID(q.ID); err != nil {
		return reply{}, err
	}
	a, err := h.keeper.session(ctx)
	if err != nil {
		return reply{}, err
	}
	return reply{}, a.Discard(ctx, q.ID)
}

func (h *Handler) get(ctx context.Context, q arguments) (reply, error) {
	if err := checkID(q.ID); err != nil {
		return reply{}, err
	}
	a, err := h.keeper.session(ctx)
	if err != nil {
		return reply{}, err
	}
	if err := h.o.Unseen(); err != nil {
		return reply{}, err
	}
	dir, err := a.Mount(ctx, q.ID, store.MountOptions{Label: q.MountLabel})
	if err != nil {
		return reply{}, err
	}
	return reply{Dir: h.o.HostPath(dir)}, nil
}

func (h *Handler) put(ctx context.Context, q arguments) (reply, error) {
	if err := checkID(q.ID); err != nil {
		return reply{}, err
	}
	a, err := h.keeper.session(ctx)
	if err != nil {
		return reply{}, err
	}
	return reply{}, a.Unmount(ctx, q.ID)
}

func (h *Handler) exists(ctx context.Context, q arguments) (reply, error) {
	if err := checkID(q.ID); err != nil {
		return reply{}, err
	}
	a, err := h.keeper.session(ctx)
	if err != nil {
		return reply{}, err
	}
	_, err = a.Stat(ctx, q.ID)
	if errdefs.IsNotFound(err) {
		return reply{}, nil
	}
	return reply{Exists: err == nil}, err
}

// metadata is what `docker inspect` shows under GraphDriver.Data.
func (h *Handler) metadata(ctx context.Context, q arguments) (reply, error) {
	if err := checkID(q.ID); err != nil {
		return reply{}, err
	}
	a, err := h.keeper.session(ctx)
	if err != nil {
		return reply{}, err
	}
	i, err := a.Stat(ctx, q.ID)
	if err != nil {
		return reply{}, err
	}
	fields, err := a.Describe(ctx, q.ID)
	if err != nil {
		return reply{}, err
	}
	m := map[string]string{
		"Backend": a.info.Backend,
		"Name":    i.Name,
		"ID":      i.ID,
		"State":   string(i.State),
		"Sealed":  strconv.FormatBool(i.Sealed),
	}
	if i.Parent != "" {
		m["Parent"] = i.Parent
	}
	if i.MountDir != "" {
		m["MergedDir"] = filepath.Clean(h.o.HostPath(i.MountDir)) // cleaned, the climbing form is the host's path
	}
	for _, f := range fields {
		m[f.Name] = h.o.HostText(f.Value)
		m["Mountpoint"] = m["MergedDir"] // what Docker's own drivers that know a Dataset call it
	}
	if i.Limit != 0 {
		m["Limit"] = strconv.FormatInt(i.Limit, 10)
	}
	if i.Applied != nil {
		m["DiffID"] = i.Applied.Digest
	}
	return reply{Metadata: m}, nil
}
