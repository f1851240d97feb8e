package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"strata/backend/store"
)

// What check finds by comparing the store with a client's record.
const (
	findingLost  store.FindingKind = "lost-layer"  // the client has it, the store has not
	findingWrong store.FindingKind = "wrong-store" // the store has none of the client's layers
)

// record is what a client of the store has written down about its layers.
type record struct {
	owner  string            // the client's name
	layers map[string]*users // by the store's name of the layer
}

// users are who needs a layer, by the names that people know.
type users struct{ images, containers, others []string }

// needed enters a layer.
func (r record) needed(layer string) *users {
	u := r.layers[layer]
	if u == nil {
		u = &users{}
		r.layers[layer] = u
	}
	return u
}

// settling is how long a client may take to write down that it has removed a layer.
const settling = 500 * time.Millisecond

// lost compares the store with a client's record, which read reads, and lists the layers that only the latter has.
func (t *target) lost(ctx context.Context, read func() (record, error)) ([]store.Finding, error) {
	var before []string
	for first := true; ; first = false {
		r, err := read() // first: a layer is in the store before it is written down
		if err != nil {
			return nil, err
		}
		root, missing, err := t.missing(ctx, r)
		if err != nil || len(missing) == 0 {
			return nil, err
		}
		if !first {
			missing = slices.DeleteFunc(missing, func(name string) bool { return !slices.Contains(before, name) })
			return r.findings(root, missing), nil
		}
		before = missing
		select { // a layer that is being removed leaves the store first
		case <-time.After(settling):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// missing returns the store's root, and the names in the record that it does not have.
func (t *target) missing(ctx context.Context, r record) (root string, names []string, err error) {
	i, err := t.describe(ctx)
	if err != nil {
		return "", nil, err
	}
	list, err := t.List(ctx)
	if err != nil {
		return "", nil, err
	}
	has := make(map[string]bool, len(list))
	for _, l := range list {
		has[l.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(r.layers)) {
		if !has[name] {
			names = append(names, name)
		}
	}
	return i.HostRoot, names, nil
}

// findings puts into words what is missing, and what to do.
func (r record) findings(root string, missing []string) []store.Finding {
	list := make([]store.Finding, 0, 1+len(missing))
	all := len(missing) > 0 && len(missing) == len(r.layers)
	if all {
		list = append(list, store.Finding{Kind: findingWrong, Detail: fmt.Sprintf(
			"none of the %d layers that %s has in its record is in this store, %s: it is another one, or its disk is not mounted; "+
				"stop %s, mount the disk, and start both again, before anything is removed or pulled", len(missing), r.owner, root, r.owner)})
	}
	for _, name := range missing {
		detail := fmt.Sprintf("%s has it in its record; %s", r.owner, r.layers[name])
		if !all {
			detail += "; unless a disk that has it can be mounted, " + r.layers[name].cure()
		}
		list = append(list, store.Finding{Kind: findingLost, Layer: name, Detail: detail})
	}
	return list
}

// String says who needs a layer.
func (u *users) String() string {
	var needs []string
	for _, n := range []struct {
		kind  string
		names []string
	}{{"image", u.images}, {"container", u.containers}, {"", u.others}} {
		if len(n.names) > 0 {
			needs = append(needs, strings.TrimSpace(n.kind+" "+enumerate(n.names)))
		}
	}
	if len(needs) == 0 {
		return "no image and no container needs it"
	}
	return "needed by " + strings.Join(needs, " and ")
}

// cure says how to do without a layer.
func (u *users) cure() string {
	switch {
	case len(u.images) > 0 && len(u.containers) > 0:
		return "remove the containers, then the images, and pull or build these anew"
	case len(u.images) > 0:
		return "remove the images, and pull or build them anew"
	case len(u.containers) > 0:
		return "remove the containers: what they wrote is lost"
	case len(u.others) > 0:
		return "it is only made anew"
	}
	return "nothing is lost"
}

// enumerate joins names, the first few of many, each once.
func enumerate(names []string) string {
	const most = 8
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
