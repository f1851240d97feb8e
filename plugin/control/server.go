package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"strata/backend"
	"strata/backend/store"
	"strata/plugin"
	"strata/plugin/config"
)

// Options are what a server needs.
type Options struct {
	// Store returns the open store, or ErrUnavailable as long as there is none.
	Store    func(ctx context.Context) (Store, error)
	Settings Settings
	Metrics  *Metrics
	Version  Version
	// Place describes the store's surroundings. It is asked only while a store is open.
	Place func(ctx context.Context) Place
	// HostText translates the paths in a text, which may be one path, into the host's; nil changes nothing.
	HostText func(text string) string
}

// New returns the handler of /strata/v1/ and /metrics.
func New(o Options) http.Handler {
	if o.HostText == nil {
		o.HostText = func(text string) string { return text }
	}
	s := &server{o}
	mux := http.NewServeMux()
	for pattern, h := range map[string]http.HandlerFunc{
		"GET version":               answer(s, s.version),
		"GET info":                  answer(s, s.info),
		"GET layers":                answer(s, s.layers),
		"GET tree":                  answer(s, s.tree),
		"GET stores":                answer(s, s.stores),
		"GET leaving":               answer(s, s.leaving),
		"GET usage":                 events(s, s.usage),
		"GET options":               answer(s, s.options),
		"POST options":              answer(s, s.setOptions),
		"POST check":                events(s, s.check),
		"POST gc":                   events(s, s.gc),
		"POST adopt":                answer(s, s.adopt),
		"GET layers/{name}":         answer(s, s.stat),
		"GET layers/{name}/usage":   answer(s, s.layerUsage),
		"GET layers/{name}/path":    answer(s, s.path),
		"GET layers/{name}/changes": streamed(s, "application/json", s.changes),
		"GET layers/{name}/diff":    streamed(s, "application/x-tar", s.diff),
		"GET layers/{name}/export":  streamed(s, "application/x-tar", s.export),
		"POST layers/{name}/clone":  answer(s, s.clone),
		"POST layers/{name}/idmap":  answer(s, s.setIDMap),
	} {
		var method, path string
		if _, err := fmt.Sscan(pattern, &method, &path); err != nil {
			panic(err)
		}
		mux.Handle(method+" "+prefix+path, h)
	}
	mux.HandleFunc(prefix, func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, fmt.Errorf("%s %s is not part of the control API: %w", r.Method, r.URL.Path, errdefs.ErrNotFound))
	})
	mux.Handle("GET /metrics", o.Metrics.handler())
	return mux
}

type server struct{ Options }

// answer makes a handler of a function whose result is the reply.
func answer[T any](s *server, f func(r *http.Request) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, plugin.MaxJSON)
		result, err := f(r)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		log.G(r.Context()).WithField("op", r.URL.Path).Debug("control call")
		reply(w, r, http.StatusOK, result)
	}
}

// fail answers with an error.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	body, status := s.toWire(err)
	entry := log.G(r.Context()).WithField("op", plugin.Brief(r.URL.Path, plugin.MaxText)).WithField("error", plugin.Brief(err.Error(), plugin.MaxText))
	if status < http.StatusInternalServerError {
		entry.Info("control call refused") // the client's mistake, not ours
	} else {
		entry.Error("control call failed")
	}
	reply(w, r, status, body)
}

func reply(w http.ResponseWriter, r *http.Request, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		log.G(r.Context()).WithField("op", r.URL.Path).WithError(err).Debug("client went away")
	}
}

// decode reads the request's JSON body.
func decode[T any](r *http.Request) (T, error) {
	var v T
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, fmt.Errorf("read request: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return v, fmt.Errorf("read request: more than one JSON value: %w", errdefs.ErrInvalidArgument)
	}
	return v, nil
}

// streamed makes a handler of a function that writes the answer. After the first byte a failure can only be told by
// breaking the connection.
func streamed(s *server, contentType string, f func(r *http.Request, w io.Writer) error) http.HandlerFunc {
	const buffer = 256 << 10 // bytes; a tar is mostly file content, so large writes
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		out := plugin.Watch(w)
		b := bufio.NewWriterSize(out, buffer)
		ctx, done := plugin.Writing(w, r)
		err := f(r.WithContext(ctx), b) //nolint:contextcheck // it is made of the request's
		done()
		if err == nil {
			err = b.Flush()
		}
		if err == nil {
			return
		}
		if !out.Begun() {
			s.fail(w, r, err)
			return
		}
		log.G(r.Context()).WithField("op", r.URL.Path).WithError(err).Error("control stream failed")
		out.Cut()
	}
}

func (s *server) version(*http.Request) (Version, error) { return s.Version, nil }

func (s *server) info(r *http.Request) (Info, error) {
	st, err := s.Store(r.Context())
	if err != nil {
		return Info{}, err
	}
	i, err := st.Info(r.Context())
	i.Root, i.MountDir = s.HostText(i.Root), s.HostText(i.MountDir)
	i.Stores, i.Fields = slices.Clone(i.Stores), slices.Clone(i.Fields) // they are the store's
	for n := range i.Stores {
		i.Stores[n] = s.HostText(i.Stores[n])
	}
	for n := range i.Fields {
		i.Fields[n].Value = s.HostText(i.Fields[n].Value)
	}
	return Info{StoreInfo: i, Place: s.Place(r.Context()), Version: s.Version}, err
}

func (s *server) layers(r *http.Request) ([]store.Info, error) {
	st, err := s.Store(r.Context())
	if err != nil {
		return nil, err
	}
	list, err := st.List(r.Context())
	list = slices.Clone(list) // it is the store's
	for i := range list {
		list[i] = s.onHost(list[i])
	}
	return notNil(list), err
}

// onHost returns a layer with the host's paths.
func (s *server) onHost(i store.Info) store.Info {
	i.MountDir, i.Store = s.HostText(i.MountDir), s.HostText(i.Store)
	return i
}

func (s *server) tree(r *http.Request) ([]*Node, error) {
	list, err := s.layers(r)
	return notNil(Tree(list)), err
}

func (s *server) stores(r *http.Request) ([]string, error) {
	i, err := s.info(r)
	return notNil(i.Stores), err
}

// notNil makes an empty list go over the wire as [] and not as null.
func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (s *server) options(r *http.Request) ([]config.Setting, error) {
	return s.Settings.Options(r.Context())
}

func (s *server) setOptions(r *http.Request) ([]config.Outcome, error) {
	values, err := decode[map[string]string](r)
	if err != nil {
		return nil, err
	}
	return s.Settings.SetOptions(r.Context(), values)
}

func (s *server) usage(r *http.Request, out *stream) error {
	st, err := s.Store(r.Context())
	if err != nil {
		return err
	}
	return EachUsage(r.Context(), st, func(u LayerUsage) error { return out.send(event{Usage: &u}) })
}

func (s *server) leaving(r *http.Request) ([]store.Leaving, error) {
	st, err := s.Store(r.Context())
	if err != nil {
		return nil, err
	}
	list, err := st.Leaving(r.Context())
	return notNil(list), err
}

// EachUsage measures all layers, one after the other, and calls f for each, at last for those that were removed and whose data is
// still there. Layers of additional stores are left out, and those that are being made, filled or removed meanwhile.
func EachUsage(ctx context.Context, st Reader, f func(LayerUsage) error) error {
	list, err := st.List(ctx)
	if err != nil {
		return err
	}
	for _, l := range list {
		if l.Store != "" || l.State == store.StateRemoving {
			continue
		}
		u, err := measure(ctx, st, l)
		switch {
		case ctx.Err() == nil && isOnItsWay(err):
			continue
		case err != nil && !errdefs.IsDataLoss(err):
			return err
		}
		lu := LayerUsage{Name: l.Name, Size: u.Size, Inodes: u.Inodes}
		if err != nil {
			lu.Damaged = err.Error()
		}
		if err := f(lu); err != nil {
			return err
		}
	}
	return eachLeaving(ctx, st, f)
}

// measure returns what a layer itself occupies. A link has nothing: its layer would be counted twice.
func measure(ctx context.Context, st Reader, l store.Info) (backend.Usage, error) {
	if l.Link {
		return backend.Usage{}, nil
	}
	return st.Usage(ctx, l.Name)
}

// isOnItsWay tells whether a layer cannot be measured since it is not whole yet, or not there any more.
func isOnItsWay(err error) bool {
	return errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) || errdefs.IsAborted(err)
}

func eachLeaving(ctx context.Context, st Reader, f func(LayerUsage) error) error {
	list, err := st.Leaving(ctx)
	if err != nil {
		return err
	}
	for _, l := range list {
		why := "being deleted"
		if l.Keeps {
			why = "kept until its children are gone"
		}
		if err := f(LayerUsage{Name: l.Name, Size: l.Usage.Size, Inodes: l.Usage.Inodes, Removed: why}); err != nil {
			return err
		}
	}
	return nil
}

// progressEvery is how often progress is sent at most: more cannot be read anyway.
const progressEvery = 100 * time.Millisecond

func (s *server) check(r *http.Request, out *stream) error {
	q, err := decode[CheckRequest](r)
	if err != nil {
		return err
	}
	st, err := s.Store(r.Context())
	if err != nil {
		return err
	}
	found, err := st.Check(r.Context(), store.CheckOptions{Deep: q.Deep, Repair: q.Repair, Progress: out.progress})
	for _, f := range found {
		f.Detail = s.HostText(f.Detail)
		err = errors.Join(err, out.send(event{Finding: &f}))
	}
	return err
}

// set is the reverse of members.
func set(list *[]string) map[string]bool {
	if list == nil {
		return nil
	}
	set := make(map[string]bool, len(*list))
	for _, member := range *list {
		set[member] = true
	}
	return set
}

func (s *server) gc(r *http.Request, out *stream) error {
	q, err := decode[GCRequest](r)
	if err != nil {
		return err
	}
	st, err := s.Store(r.Context())
	if err != nil {
		return err
	}
	orphans, err := st.GC(r.Context(), store.GCOptions{Yes: q.Yes, Known: set(q.Known), Listed: set(q.Listed)})
	for _, x := range orphans {
		x.Reason = s.HostText(x.Reason)
		err = errors.Join(err, out.send(event{Orphan: &x}))
	}
	return err
}

func (s *server) adopt(r *http.Request) ([]store.Adoption, error) {
	q, err := decode[AdoptRequest](r)
	if err != nil {
		return nil, err
	}
	st, err := s.Store(r.Context())
	if err != nil {
		return nil, err
	}
	return st.Adopt(r.Context(), q.Yes)
}

func (s *server) stat(r *http.Request) (store.Info, error) {
	st, err := s.Store(r.Context())
	if err != nil {
		return store.Info{}, err
	}
	i, err := st.Stat(r.Context(), r.PathValue("name"))
	return s.onHost(i), err
}

func (s *server) layerUsage(r *http.Request) (backend.Usage, error) {
	st, err := s.Store(r.Context())
	if err != nil {
		return backend.Usage{}, err
	}
	return st.Usage(r.Context(), r.PathValue("name"))
}

func (s *server) path(r *http.Request) (LayerPath, error) {
	i, err := s.stat(r)
	return LayerPath{ID: i.ID, MountDir: i.MountDir, Mounted: i.Mounts > 0, Store: i.Store}, err
}

// parentOf is the parent that the query names, or else the layer's own.
func (s *server) parentOf(r *http.Request, st Store) (string, error) {
	if q := r.URL.Query(); q.Has("parent") {
		return q.Get("parent"), nil
	}
	i, err := st.Stat(r.Context(), r.PathValue("name"))
	return i.Parent, err
}

func (s *server) changes(r *http.Request, w io.Writer) error {
	st, err := s.Store(r.Context())
	if err != nil {
		return err
	}
	parent, err := s.parentOf(r, st)
	if err != nil {
		return err
	}
	return plugin.WriteArray(w, PathChanges(st.Changes(r.Context(), r.PathValue("name"), parent)), "")
}

// PathChanges puts changes into words.
func PathChanges(changes iter.Seq2[backend.Change, error]) iter.Seq2[PathChange, error] {
	return func(yield func(PathChange, error) bool) {
		for c, err := range changes {
			if !yield(PathChange{Path: c.Path, Kind: kindNames[c.Kind]}, err) {
				return
			}
		}
	}
}

// kindNames are the words for kinds of changes.
var kindNames = [...]string{backend.Modified: "modified", backend.Added: "added", backend.Deleted: "deleted"}

// kindNamed is the kind that a word means.
func kindNamed(word string) (backend.ChangeKind, error) {
	k := slices.Index(kindNames[:], word)
	if k < 0 {
		return 0, fmt.Errorf("kind of change %q: %w", word, errdefs.ErrNotImplemented)
	}
	return backend.ChangeKind(k), nil
}

func (s *server) diff(r *http.Request, w io.Writer) error {
	st, err := s.Store(r.Context())
	if err != nil {
		return err
	}
	parent, err := s.parentOf(r, st)
	if err != nil {
		return err
	}
	return st.Diff(r.Context(), r.PathValue("name"), parent, w)
}

func (s *server) export(r *http.Request, w io.Writer) error {
	st, err := s.Store(r.Context())
	if err != nil {
		return err
	}
	return st.Diff(r.Context(), r.PathValue("name"), "", w)
}

func (s *server) clone(r *http.Request) (store.Info, error) {
	q, err := decode[CloneRequest](r)
	if err != nil {
		return store.Info{}, err
	}
	st, err := s.Store(r.Context())
	if err != nil {
		return store.Info{}, err
	}
	o := store.CreateOptions{Limit: q.Limit, Label: q.Label, Labels: q.Labels, IDMap: q.IDMap}
	if err := st.Clone(r.Context(), r.PathValue("name"), q.Template, o); err != nil {
		return store.Info{}, err
	}
	i, err := st.Stat(r.Context(), r.PathValue("name"))
	return s.onHost(i), err
}

func (s *server) setIDMap(r *http.Request) (store.Info, error) {
	q, err := decode[IDMapRequest](r)
	if err != nil {
		return store.Info{}, err
	}
	st, err := s.Store(r.Context())
	if err != nil {
		return store.Info{}, err
	}
	if err := st.SetIDMap(r.Context(), r.PathValue("name"), q.IDMap); err != nil {
		return store.Info{}, err
	}
	i, err := st.Stat(r.Context(), r.PathValue("name"))
	return s.onHost(i), err
}
