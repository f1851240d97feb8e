package mount

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend"
)

// Portable rewrites mounts for somebody else who is to make them by mount(2), in the words that containerd takes
// (core/mount in its source): "bind" for a bind, one "lowerdir=" of an overlay with colons, "uidmap=" and "gidmap=" in
// place of X-mount.idmap, quoted labels. Commas, colons and backslashes in paths are escaped as the kernel wants
// it. ErrNotImplemented for what cannot be said so: an overlay of directories with several maps.
func Portable(mounts []backend.Mount) ([]backend.Mount, error) {
	list := make([]backend.Mount, 0, len(mounts))
	for _, m := range mounts {
		p, err := portable(m)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

func portable(m backend.Mount) (backend.Mount, error) {
	r, err := parse(m)
	if err != nil {
		return m, err
	}
	words := properties(m)
	if r.kind == typeBind {
		words = append(words, "bind")
	}
	for _, o := range r.data {
		word, err := r.word(o)
		if err != nil {
			return m, err
		}
		words = append(words, word)
	}
	idMap, err := r.onlyMap()
	if err != nil {
		return m, err
	}
	if idMap != nil {
		words = append(words, "uidmap="+ranges(idMap.UIDs), "gidmap="+ranges(idMap.GIDs))
	}
	if len(r.lowers) > 0 {
		dirs := make([]string, 0, len(r.lowers))
		for _, l := range r.lowers {
			dirs = append(dirs, escapeLower(l.dir))
		}
		words = append(words, keyLower+"="+strings.Join(dirs, ":"))
	}
	return backend.Mount{Type: m.Type, Source: m.Source, Options: words}, nil
}

// properties returns the words that say what kind of mount it is to be, "rw" or "ro" in any case.
func properties(m backend.Mount) []string {
	attrs, super := attributes(), superFlags()
	mode, words := "rw", []string{}
	for _, word := range m.Options {
		_, isAttr := attrs[word]
		_, isSuper := super[word]
		switch {
		case word == "ro", word == "rw":
			mode = word
		case isAttr, isSuper:
			words = append(words, word)
		}
	}
	return append([]string{mode}, words...)
}

// onlyMap returns the ID map through which all is to be shown, nil for none.
func (r *request) onlyMap() (*backend.IDMap, error) {
	if len(r.lowers) == 0 {
		return r.idMap, nil
	}
	first := r.lowers[0].idMap
	for _, l := range r.lowers {
		if !l.idMap.Equal(first) {
			return nil, fmt.Errorf("layers with different ID maps in one mount: %w", errdefs.ErrNotImplemented)
		}
	}
	return first, nil
}

// ranges writes a part of an ID map as containerd does: DISK:SHOWN:SIZE, separated by commas.
func ranges(list []backend.IDRange) string {
	words := make([]string, 0, len(list))
	for _, r := range list {
		words = append(words, fmt.Sprintf("%d:%d:%d", r.Container, r.Host, r.Size))
	}
	return strings.Join(words, ",")
}
