package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"strata/backend"
	"strata/backend/store"
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
	Place func() Place
	// HostPath translates a mount directory into what dockerd sees; nil changes nothing.
	HostPath func(dir string) string
}

// New returns the handler of /strata/v1/ and /metrics.
func New(o Options) http.Handler {
	s := &server{o}
	mux := http.NewServeMux()
	for pattern, h := range map[string]http.HandlerFunc{
		"GET version":               answer(s.version),
		"GET info":                  answer(s.info),
		"GET layers":                answer(s.layers),
		"GET tree":                  answer(s.tree),
		"GET stores":                answer(s.stores),
		"GET usage":                 events(s.usage),
		"GET options":               answer(s.options),
		"POST options":              answer(s.setOptions),
		"POST check":                events(s.check),
		"POST gc":                   events(s.gc),
		"POST adopt":                answer(s.adopt),
		"GET layers/{name}":         answer(s.stat),
		"GET layers/{name}/usage":   answer(s.layerUsage),
		"GET layers/{name}/path":    answer(s.path),
		"GET layers/{name}/changes": answer(s.changes),
		"GET layers/{name}/diff":    tarball(s.diff),
		"GET layers/{name}/export":  tarball(s.export),
		"POST layers/{name}/clone":  answer(s.clone),
		"POST layers/{name}/idmap":  answer(s.setIDMap),
	} {
		var method, path string
		if _, err := fmt.Sscan(pattern, &method, &path); err != nil {
			panic(err)
		}
		mux.Handle(method+" "+prefix+path, h)
	}
	mux.HandleFunc(prefix, func(w http.ResponseWriter, r *http.Request) {
		fail(w, r, fmt.Errorf("%s %s is not part of the control API: %w", r.Method, r.URL.Path, errdefs.ErrNotFound))
	})
	mux.Handle("GET /metrics", o.Metrics.handler())
	return mux
}

type server struct{ Options }

// answer makes a handler of a function whose result is the reply.
func answer[T any](f func(r *http.Request) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		result, err := f(r)
		if err != nil {
			fail(w, r, err)
			return
		}
		log.G(r.Context()).WithField("op", r.URL.Path).Debug("control call")
		reply(w, r, http.StatusOK, result)
	}
}

func fail(w http.ResponseWriter, r *http.Request, err error) {
	body, status := toWire(err)
	entry := log.G(r.Context()).WithField("op", r.URL.Path).WithError(err)
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
	return v, nil
}

// tarball makes a handler of a function that writes a tar. After the first byte a failure can only be told by
// breaking the connection.
func tarball(f func(r *http.Request, w io.Writer) error) http.HandlerFunc {
	const buffer = 256 << 10 // bytes; a tar is mostly file content, so large writes
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-tar")
		started := &startWriter{w: w}
		b := bufio.NewWriterSize(started, buffer)
		err := f(r, b)
		if err == nil {
			err = b.Flush()
		}
		if err == nil {
			return
		}
		if !started.started {
			fail(w, r, err)
			return
		}
		log.G(r.Context()).WithField("op", r.URL.Path).WithError(err).Error("control stream failed")
		panic(http.ErrAbortHandler)
	}
}

// startWriter remembers whether anything was written.
type startWriter struct {
	w       io.Writer
	started bool
}

func (s *startWriter) Write(p []byte) (int, error) {
	s.started = true
	return s.w.Write(p)
}

func (s *server) version(*http.Request) (Version, error) { return s.Version, nil }

func (s *server) info(r *http.Request) (Info, error) {
	st, err := s.Store(r.Context())
	if err != nil {
		return Info{}, err
	}
	i, err := st.Info(r.Context())
	return Info{StoreInfo: i, Place: s.Place(), Version: s.Version}, err
}

func (s *server) layers(r *http.Request) ([]store.Info, error) {
	st, err := s.Store(r.Context())
	if err != nil {
		return nil, err
	}
	list, err := st.List(r.Context())
	return notNil(list), err
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

func (s *server) setOptions(r *http.Request) ([]Change, error) {
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

// EachUsage measures all layers, one after the other, and calls f for each. Layers of additional
// stores are left out, and so is a layer that is removed meanwhile.
func EachUsage(ctx context.Context, st Reader, f func(LayerUsage) error) error {
	list, err := st.List(ctx)
	if err != nil {
		return err
	}
	for _, l := range list {
		if l.Store != "" || l.State == store.StateRemoving {
			continue
		}
		var u backend.Usage
		if !l.Link { // or its layer would be counted twice
			if u, err = st.Usage(ctx, l.Name); errdefs.IsNotFound(err) {
				continue
			}
		}
		if err != nil {
			return err
		}
		if err := f(LayerUsage{Name: l.Name, Size: u.Size, Inodes: u.Inodes}); err != nil {
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
		err = errors.Join(err, out.send(event{Finding: &f}))
	}
	return err
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
	o := store.GCOptions{Yes: q.Yes}
	if q.Known != nil {
		o.Known = make(map[string]bool, len(*q.Known))
		for _, name := range *q.Known {
			o.Known[name] = true
		}
	}
	orphans, err := st.GC(r.Context(), o)
	for _, x := range orphans {
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
	return st.Stat(r.Context(), r.PathValue("name"))
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
	p := LayerPath{ID: i.ID, MountDir: i.MountDir, Mounted: i.Mounts > 0, Store: i.Store}
	if s.HostPath != nil {
		p.MountDir = s.HostPath(p.MountDir)
	}
	return p, err
}

// parentOf is the parent that the query names, or else the layer's own.
func (s *server) parentOf(r *http.Request, st Store) (string, error) {
	if q := r.URL.Query(); q.Has("parent") {
		return q.Get("parent"), nil
	}
	i, err := st.Stat(r.Context(), r.PathValue("name"))
	return i.Parent, err
}

func (s *server) changes(r *http.Request) ([]PathChange, error) {
	st, err := s.Store(r.Context())
	if err != nil {
		return nil, err
	}
	parent, err := s.parentOf(r, st)
	if err != nil {
		return nil, err
	}
	list, err := st.Changes(r.Context(), r.PathValue("name"), parent)
	return PathChanges(list), err
}

// PathChanges puts changes into words.
func PathChanges(list []backend.Change) []PathChange {
	words := make([]PathChange, 0, len(list))
	for _, c := range list {
		words = append(words, PathChange{Path: c.Path, Kind: kindName(c.Kind)})
	}
	return words
}

func kindName(k backend.ChangeKind) string {
	return [...]string{backend.Modified: "modified", backend.Added: "added", backend.Deleted: "deleted"}[k]
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
	return st.Stat(r.Context(), r.PathValue("name"))
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
	return st.Stat(r.Context(), r.PathValue("name"))
}
