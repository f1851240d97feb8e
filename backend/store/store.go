package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"strata/backend"
	"strata/backend/internal/mount"
	"strata/backend/internal/tree"
)

// Store is an open store. All methods may be called concurrently.
type Store struct {
	cfg     Config
	meta    meta
	backend backend.Backend
	able    abilities
	lock    *os.File    // holds the flock; nil for a read-only store
	lazy    atomic.Bool // SyncNone
	journal bool        // records and data share a journal that is written in order
	peers   []*peer
	deleter *deleter

	mu     sync.RWMutex
	byName map[string]*layer
	byID   map[string]*layer
	bad    []badRecord
}

// meta is strata.json: what a store promised when it was made.
type meta struct {
	Format     int       `json:"format"`
	UUID       string    `json:"uuid"`
	Backend    string    `json:"backend"`
	ExactDiffs bool      `json:"exactDiffs"`
	Created    time.Time `json:"created"`
}

// format is the version of the on-disk format that this code writes (doc.go).
const format = 1

// Directories and files below the root.
const (
	metaFile  = "strata.json"
	lockFile  = "lock"
	layersDir = "layers"
	logsDir   = "logs"
	mountsDir = "mnt"
	dataDir   = "data"
)

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.cfg.Root}, elem...)...)
}

// home returns the backend's directory in the store at root.
func home(root, backendName string) string { return filepath.Join(root, dataDir, backendName) }

// Open opens the store at c.Root, making it if it does not exist, and recovers from a crash: what
// was unfinished is removed, mounts that survived are counted once. ErrUnavailable if another
// process has the store open, ErrFailedPrecondition if the store was made with another backend or
// another promise.
func Open(ctx context.Context, c Config) (_ *Store, err error) {
	c, err = c.complete()
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: c, byName: map[string]*layer{}, byID: map[string]*layer{}}
	s.lazy.Store(c.Sync == SyncNone)
	if !c.ReadOnly {
		if err := s.prepare(); err != nil {
			return nil, fmt.Errorf("open store %s: %w", c.Root, err)
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.release())
		}
	}()
	if err := s.load(ctx); err != nil {
		return nil, fmt.Errorf("open store %s: %w", c.Root, err)
	}
	return s, nil
}

func (c Config) complete() (Config, error) {
	if !filepath.IsAbs(c.Root) {
		return c, fmt.Errorf("store root %q is not an absolute path: %w", c.Root, errdefs.ErrInvalidArgument)
	}
	c.Root = filepath.Clean(c.Root)
	if c.MountDir == "" {
		c.MountDir = filepath.Join(c.Root, mountsDir)
	}
	if c.Sync == "" {
		c.Sync = SyncLayer
	}
	if c.Sync != SyncLayer && c.Sync != SyncNone {
		return c, fmt.Errorf("sync %q: %w: want %q or %q", c.Sync, errdefs.ErrInvalidArgument, SyncLayer, SyncNone)
	}
	return c, nil
}

// prepare makes the store's directories, takes its lock, and reads or writes strata.json.
func (s *Store) prepare() error {
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{
		{s.path(), 0o700},
		{s.path(layersDir), 0o700},
		{s.path(logsDir), 0o700},
		{s.path(dataDir), 0o700},
		{s.cfg.MountDir, 0o700},
	} {
		if err := os.Mkdir(d.path, d.mode); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	f, err := os.OpenFile(s.path(lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := lockExclusive(f); err != nil {
		_ = f.Close() // nothing was written
		return err
	}
	s.lock = f
	return nil
}

// load reads the store and finishes what a crash interrupted.
func (s *Store) load(ctx context.Context) error {
	if err := s.loadMeta(); err != nil {
		return err
	}
	dir := home(s.cfg.Root, s.meta.Backend)
	if !s.cfg.ReadOnly {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	var err error
	if !s.cfg.ReadOnly {
		if s.journal, err = oneJournal(s.path(layersDir), dir); err != nil {
			return err
		}
	}
	env := backend.Env{Home: dir, UUID: s.meta.UUID, Active: s.activePath()}
	for _, root := range s.cfg.Stores {
		p, err := openPeer(root, s.meta.Backend)
		if err != nil {
			return err
		}
		s.peers = append(s.peers, p)
		env.Stores = append(env.Stores, home(root, s.meta.Backend))
	}
	if s.backend, err = s.cfg.New(ctx, env); err != nil {
		return fmt.Errorf("backend %s: %w", s.meta.Backend, err)
	}
	s.able = findAbilities(s.backend)
	recs, bad, err := readRecords(s.path(layersDir), !s.cfg.ReadOnly)
	if err != nil {
		return err
	}
	s.bad = bad
	unfinished := s.plant(recs)
	if s.cfg.ReadOnly {
		return nil
	}
	if err := s.makeActiveDir(); err != nil {
		return err
	}
	if err := s.recoverMounts(ctx); err != nil {
		return err
	}
	s.deleter = newDeleter(ctx, s)
	s.deleter.add(unfinished...)
	return nil
}

func (s *Store) loadMeta() error {
	err := readFile(s.path(metaFile), &s.meta)
	if errors.Is(err, os.ErrNotExist) && !s.cfg.ReadOnly {
		return s.writeMeta()
	}
	if err != nil {
		return err
	}
	switch {
	case s.meta.Format != format:
		return fmt.Errorf("format %d, this version of strata knows format %d: %w", s.meta.Format, format, errdefs.ErrFailedPrecondition)
	case s.cfg.Backend != "" && s.cfg.Backend != s.meta.Backend:
		return fmt.Errorf("the store was made with backend %s, not %s: use that, another root, or move the layers with strata migrate: %w",
			s.meta.Backend, s.cfg.Backend, errdefs.ErrFailedPrecondition)
	case s.cfg.ExactDiffsSet && s.cfg.ExactDiffs != s.meta.ExactDiffs:
		return fmt.Errorf("the store was made with exact-diffs=%t, which cannot be changed later: %w", s.meta.ExactDiffs, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// writeMeta founds a store. A directory that holds anything but our own empty directories is
// somebody else's.
func (s *Store) writeMeta() error {
	recs, err := os.ReadDir(s.path(layersDir))
	if err != nil {
		return err
	}
	if len(recs) > 0 {
		return fmt.Errorf("%s is missing but there are layers: %w", metaFile, errdefs.ErrDataLoss)
	}
	if s.cfg.Backend == "" {
		return fmt.Errorf("a new store needs a backend: %w", errdefs.ErrInvalidArgument)
	}
	s.meta = meta{Format: format, UUID: newID(), Backend: s.cfg.Backend, ExactDiffs: s.cfg.ExactDiffs, Created: time.Now().UTC()}
	if err := writeFile(s.path(metaFile), s.meta, syncFile); err != nil {
		return err
	}
	return tree.Sync(s.path(), filepath.Dir(s.cfg.Root))
}

// plant builds the tree and returns the layers that are not to stay, children first.
func (s *Store) plant(recs []record) (leaving []*layer) {
	var unfinished []*layer
	for _, r := range recs {
		s.byID[r.ID] = &layer{rec: r, link: r.Link}
	}
	for _, r := range recs {
		if old := s.byID[r.Replaces]; old != nil && r.State == StateReady {
			old.rec.State = StateRemoving
		}
	}
	for _, l := range s.byID {
		l.parent = s.byID[l.rec.Parent]
		for _, p := range s.peers {
			if l.parent == nil {
				l.parent = p.byID[l.rec.Parent]
			}
		}
		if l.rec.State != StateReady && !s.cfg.ReadOnly {
			l.gone = true
			l.rec.State = StateRemoving // on disk it is what it was; either way it goes at the next Open
			unfinished = append(unfinished, l)
		}
	}
	for _, l := range s.byID {
		if l.rec.State != StateRemoving {
			s.byName[l.rec.Name] = l
		}
		if l.parent != nil {
			l.parent.children++
		}
	}
	sort.Slice(unfinished, func(i, j int) bool { return depth(unfinished[i]) > depth(unfinished[j]) })
	for _, l := range unfinished {
		leaving = append(leaving, l.leave()...)
	}
	return leaving
}

func depth(l *layer) (n int) {
	for ; l != nil; l = l.parent {
		n++
	}
	return n
}

// recoverMounts counts the mounts of ready layers that an earlier process left, and undoes those
// of unfinished ones. Mounts whose ID is unknown are somebody else's: Check reports them.
func (s *Store) recoverMounts(ctx context.Context) error {
	below, err := mount.Below(s.cfg.MountDir)
	if err != nil {
		return err
	}
	for _, m := range below {
		l := s.byID[filepath.Base(m.Target)]
		if l == nil || filepath.Dir(m.Target) != s.cfg.MountDir {
			continue
		}
		if l.gone {
			if err := mount.Unmount(ctx, m.Target); err != nil {
				return err
			}
			continue
		}
		l.count.Store(1)
	}
	for _, l := range s.byID {
		s.recall(l)
	}
	if err := s.deactivateRest(ctx, below); err != nil {
		return err
	}
	return s.sweepMountPoints()
}

// sweepMountPoints removes the directories of layers that were just about to be mounted, or just
// unmounted, when an earlier process died.
func (s *Store) sweepMountPoints() error {
	entries, err := os.ReadDir(s.cfg.MountDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if l := s.byID[e.Name()]; l != nil && l.count.Load() == 0 {
			_ = os.Remove(s.mountPoint(l)) // it is not empty if somebody put something there
		}
	}
	return nil
}

// Close waits for a background deletion in progress and releases the store. Mounts stay. Calls
// that are still running must have ended before.
func (s *Store) Close(_ context.Context) error {
	if s.deleter != nil {
		s.deleter.stop()
	}
	return s.release()
}

func (s *Store) release() (err error) {
	if c, ok := s.backend.(backend.Closer); ok {
		err = c.Close()
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
		s.lock = nil
	}
	return err
}

// SetSync changes when layers are made durable, from the next call on. ErrInvalidArgument.
func (s *Store) SetSync(m SyncMode) error {
	if m != SyncLayer && m != SyncNone {
		return fmt.Errorf("sync %q: %w: want %q or %q", m, errdefs.ErrInvalidArgument, SyncLayer, SyncNone)
	}
	s.lazy.Store(m == SyncNone)
	return nil
}

// writable returns an error if the store is open for inspection only.
func (s *Store) writable() error {
	if s.cfg.ReadOnly {
		return fmt.Errorf("store %s is open read-only: %w", s.cfg.Root, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func (s *Store) syncMode() SyncMode {
	if s.lazy.Load() {
		return SyncNone
	}
	return SyncLayer
}

func (s *Store) durable() bool { return !s.lazy.Load() }

// stepwise says that the steps of an operation have to be synced one by one: no journal keeps their
// order.
func (s *Store) stepwise() bool { return s.durable() && !s.journal }

// recordSyncer is how records are made durable.
func (s *Store) recordSyncer() syncer {
	if !s.durable() {
		return nil
	}
	return syncFile
}

// syncStep makes the names in layers/ durable before the operation goes on, where it has to.
func (s *Store) syncStep() error {
	if !s.stepwise() {
		return nil
	}
	return s.syncRecords()
}

// syncRecords makes the names in layers/ durable.
func (s *Store) syncRecords() error {
	if !s.durable() {
		return nil
	}
	return tree.Sync(s.path(layersDir))
}

// Info describes the store.
func (s *Store) Info(ctx context.Context) (StoreInfo, error) {
	info := StoreInfo{
		Root: s.cfg.Root, UUID: s.meta.UUID, Format: s.meta.Format, Backend: s.meta.Backend,
		Sync: s.syncMode(), ExactDiffs: s.meta.ExactDiffs, Stores: s.cfg.Stores,
		MountDir: s.cfg.MountDir, Layers: map[State]int{}, Abilities: s.able.describe(),
	}
	s.mu.RLock()
	for _, l := range s.byID {
		info.Layers[l.rec.State]++
		if l.gone { // removed, or left unfinished by a crash
			info.Deleting++
		}
	}
	s.mu.RUnlock()
	mounted, err := mount.Below(s.cfg.MountDir)
	if err != nil {
		return info, err
	}
	for _, m := range mounted {
		if filepath.Dir(m.Target) == s.cfg.MountDir {
			info.Mounted++
		}
	}
	if s.able.reporter != nil {
		if info.Fields, err = s.able.reporter.Report(ctx); err != nil {
			return info, fmt.Errorf("backend %s: %w", s.meta.Backend, err)
		}
	}
	return info, nil
}

// Stat describes a layer. ErrNotFound.
func (s *Store) Stat(_ context.Context, name string) (Info, error) {
	l, err := s.lookup(name)
	if err != nil {
		return Info{}, err
	}
	return s.info(l), nil
}

// StatID describes the layer with that ID. ErrNotFound.
func (s *Store) StatID(ctx context.Context, id string) (Info, error) {
	s.mu.RLock()
	l := s.byID[id]
	for _, p := range s.peers {
		if l == nil {
			l = p.byID[id]
		}
	}
	name := ""
	if l != nil {
		name = l.rec.Name
	}
	s.mu.RUnlock()
	if l == nil {
		return Info{}, fmt.Errorf("layer with ID %q: %w", id, errdefs.ErrNotFound)
	}
	return s.Stat(ctx, name)
}

// Describe returns what the backend has to tell about a layer, nothing if it has not. ErrNotFound.
func (s *Store) Describe(ctx context.Context, name string) ([]backend.Field, error) {
	l, err := s.lookup(name)
	if err != nil || s.able.describer == nil {
		return nil, err
	}
	return s.able.describer.Describe(ctx, s.describe(l))
}

// List describes all layers, those of additional stores included, sorted by name.
func (s *Store) List(_ context.Context) ([]Info, error) {
	s.reloadPeers()
	s.mu.RLock()
	layers := make([]*layer, 0, len(s.byName))
	for name, l := range s.byName {
		if l.rec.Name == name {
			layers = append(layers, l)
		}
	}
	for _, p := range s.peers {
		for name, l := range p.byName {
			if s.byName[name] == nil {
				layers = append(layers, l)
			}
		}
	}
	s.mu.RUnlock()
	infos := make([]Info, 0, len(layers))
	for _, l := range layers {
		infos = append(infos, s.info(l))
	}
	sort.Slice(infos, func(i, j int) bool { return infos[i].Name < infos[j].Name })
	return infos, nil
}

func (s *Store) info(l *layer) Info {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := l.rec
	i := Info{
		Name: r.Name, ID: r.ID, State: r.State, Sealed: r.Sealed, Link: r.Link, Lent: r.Lent, Created: r.Created, Limit: r.Limit,
		Label: r.Label, IDMap: r.IDMap, Labels: r.Labels, Applied: r.Applied, Children: l.children,
		Mounts: int(l.count.Load()), MountDir: s.mountPoint(l),
	}
	if l.parent != nil {
		i.Parent = l.parent.rec.Name
	}
	if l.peer != nil {
		i.Store = l.peer.root
	}
	return i
}
