package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"strata/backend"
	"strata/backend/internal/mount"
	"strata/backend/store/records"
)

// Store is an open store. All methods may be called concurrently.
type Store struct {
	cfg     Config
	meta    Meta
	backend backend.Backend
	able    abilities
	lock    *os.File // holds the flock; nil for a read-only store
	records records.Dir
	sync    durability
	peers   []*peer
	deleter *deleter
	gates   gates

	adopting sync.Mutex // held by an Adopt

	mu     sync.RWMutex
	byName map[string]*layer
	byID   map[string]*layer
	bad    map[string]*badRecord // by ID

	mending sync.Mutex // held while something is put into damaged/, and a record in its place
}

// Directories and files below the root.
const (
	lockFile   = "lock"
	layersDir  = "layers"
	logsDir    = "logs"
	mountsDir  = "mnt"
	dataDir    = "data"
	damagedDir = "damaged"
)

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.cfg.Root}, elem...)...)
}

// home returns the backend's directory in the store at root.
func home(root, backendName string) string { return filepath.Join(root, dataDir, backendName) }

// Open opens the store at c.Root, making it if it does not exist, and recovers from a crash: what
// was unfinished is removed, mounts that survived are counted once. A store is made once its backend has opened, and made
// anew if it was made with another backend or another promise and holds no layers. ErrUnavailable if another
// process has the store open, ErrFailedPrecondition if it was made otherwise and holds layers.
func Open(ctx context.Context, c Config) (_ *Store, err error) {
	c, err = c.complete()
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: c, byName: map[string]*layer{}, byID: map[string]*layer{}}
	s.records = records.In(s.path(layersDir))
	s.sync.set(c.Sync)
	s.sync.records, s.sync.logs, s.sync.able = s.records, s.path(logsDir), &s.able
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

// Lock keeps every process from opening the store in root until unlock is called. ErrUnavailable if one has it open; ErrNotFound.
func Lock(root string) (unlock func() error, err error) {
	f, err := os.OpenFile(filepath.Join(root, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no store in %s: %w", root, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	if err := lockExclusive(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f.Close, nil
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
	if err := c.IDMap.Check(); err != nil {
		return c, err
	}
	if c.Sync != SyncLayer && c.Sync != SyncNone {
		return c, fmt.Errorf("sync %q: %w: want %q or %q", c.Sync, errdefs.ErrInvalidArgument, SyncLayer, SyncNone)
	}
	return c, nil
}

// prepare makes the store's directories and takes its lock.
func (s *Store) prepare() error {
	if err := s.recordsThere(); err != nil {
		return err
	}
	for _, dir := range []string{s.path(), s.path(layersDir), s.path(logsDir), s.path(dataDir), s.cfg.MountDir, s.ownPath()} {
		if err := makeDir(dir); err != nil {
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

// makeDir makes a directory of the store's, unless it is there: closed, and without what it inherits.
func makeDir(path string) error {
	err := os.Mkdir(path, closedMode)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return disinherit(path)
}

// load reads the store and finishes what a crash interrupted.
func (s *Store) load(ctx context.Context) error {
	founding, err := s.loadMeta()
	if err != nil {
		return err
	}
	if err := s.openBackend(ctx, founding != nil); err != nil {
		return err
	}
	if founding != nil {
		if err := s.found(ctx, *founding); err != nil {
			return err
		}
	}
	read, err := s.records.ReadAll(!s.cfg.ReadOnly)
	if err != nil {
		return err
	}
	used, err := readUsage()
	if err != nil {
		return err
	}
	s.quarantine(&read, used)
	unfinished := s.plant(read.Records, s.badData(ctx))
	s.enterNames(used)
	if s.cfg.ReadOnly {
		return nil
	}
	if err := s.makeActiveDir(); err != nil {
		return err
	}
	adopted, err := s.recoverMounts(ctx)
	if err != nil {
		return err
	}
	s.logOpened(ctx, read.Records, adopted)
	s.deleter = newDeleter(ctx, s)
	s.deleter.add(unfinished...)
	return nil
}

// logOpened says what was found when the store was opened, and what was done about it.
func (s *Store) logOpened(ctx context.Context, recs []record, adopted int) {
	states := map[State]int{}
	for _, r := range recs {
		states[r.State]++
	}
	log.G(ctx).WithFields(log.Fields{
		"root": s.cfg.Root, "backend": s.meta.Backend, "uuid": s.meta.UUID, "layers": len(s.byName),
		"unfinished-removed": states[StateCreating] + states[StateApplying], "deletions-resumed": states[StateRemoving],
		"mounts-adopted": adopted, "records-unreadable": len(s.bad), "additional-stores": len(s.peers),
	}).Info("opened the store")
	if len(s.bad) == 0 {
		return
	}
	var ids []string
	for _, b := range s.badRecords() {
		ids = append(ids, b.ID)
	}
	log.G(ctx).WithField("layers", enumerate(ids)).Warn("records of layers cannot be used: strata check says what to do")
}

// openBackend makes the backend's home and the backend. fresh says that the store is being made.
func (s *Store) openBackend(ctx context.Context, fresh bool) (err error) {
	dir := home(s.cfg.Root, s.meta.Backend)
	s.sync.home = dir
	if !s.cfg.ReadOnly && !fresh {
		if err := s.dataThere(dir); err != nil {
			return err
		}
	}
	env := backend.Env{Home: dir, UUID: s.meta.UUID, Active: s.activePath(), Fresh: fresh}
	for _, root := range s.cfg.Stores {
		p, err := openPeer(root, s.meta.Backend)
		if err != nil {
			return err
		}
		s.peers = append(s.peers, p)
		env.Stores = append(env.Stores, home(root, s.meta.Backend))
	}
	if !s.cfg.ReadOnly {
		if err := os.Mkdir(dir, closedMode); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := disinherit(dir); err != nil { // also one that an earlier version made: all layers are made in it
			return err
		}
		if s.sync.journal, err = oneJournal(s.path(layersDir), dir); err != nil {
			return err
		}
	}
	if s.backend, err = s.cfg.New(ctx, env); err != nil {
		s.backend = nil // New may have returned a nil of a type of its own
		if fresh {
			_ = os.Remove(dir) // an empty directory is no harm
		}
		return s.backendError("open", err)
	}
	s.able = findAbilities(s.backend)
	return nil
}

// badData returns the IDs of damaged records that have data, and of which nobody can tell what they stand on. If the backend cannot
// tell, all of them may have data.
func (s *Store) badData(ctx context.Context) map[string]bool {
	unclear := map[string]bool{}
	for _, b := range s.badRecords() {
		if b.unclear() {
			unclear[b.ID] = true
		}
	}
	if len(unclear) == 0 || s.able.lister == nil {
		return unclear
	}
	ids, err := s.dataIDs(ctx)
	if err != nil {
		log.G(ctx).WithError(err).Warn("cannot tell which damaged records have data; taking it that all have")
		return unclear
	}
	maps.DeleteFunc(unclear, func(id string, _ bool) bool { return !slices.Contains(ids, id) })
	return unclear
}

// plant builds the tree and returns the layers that are not to stay, children first. badData are the IDs of bad records that have
// data.
func (s *Store) plant(recs []record, badData map[string]bool) (leaving []*layer) {
	var unfinished []*layer
	for _, r := range recs {
		s.byID[r.ID] = &layer{rec: r, link: r.Link}
	}
	for _, r := range recs {
		if old := s.byID[r.Replaces]; old != nil && r.State == StateReady && !old.rec.Sealed { // a sealed one cannot have been replaced
			old.rec.State = StateRemoving
		}
	}
	for _, l := range s.byID {
		l.parent = s.below(l)
		if l.rec.State != StateReady && !s.cfg.ReadOnly {
			l.gone = true
			l.rec.State = StateRemoving // on disk it is what it was; either way it goes at the next Open
			unfinished = append(unfinished, l)
		}
	}
	cutCircles(s.byID)
	for _, l := range s.byID {
		if l.parent != nil {
			l.parent.children++
		}
	}
	s.holdParents(badData)
	sort.Slice(unfinished, func(i, j int) bool { return depth(unfinished[i]) > depth(unfinished[j]) })
	for _, l := range unfinished {
		leaving = append(leaving, l.leave()...)
	}
	return leaving
}

// below returns the layer that l's record names as its parent, nil if there is none.
func (s *Store) below(l *layer) *layer {
	if p := s.byID[l.rec.Parent]; p != nil {
		return p
	}
	for _, p := range s.peers {
		if parent := p.byID[l.rec.Parent]; parent != nil {
			return parent
		}
	}
	return nil
}

// enterNames lets names find their layers. Of several layers with one name it finds the one that is most surely meant: one
// that is mounted, or has children, or is the youngest.
func (s *Store) enterNames(used *usage) {
	for _, l := range s.byID {
		if l.rec.State == StateRemoving {
			continue
		}
		old := s.byName[l.rec.Name]
		if old == nil || likelier(l, old, used) {
			s.byName[l.rec.Name] = l
		}
	}
}

// likelier tells that of two layers with one name a is more likely to be meant by it.
func likelier(a, b *layer, used *usage) bool {
	if ua, ub := used.has(a.rec.ID), used.has(b.rec.ID); ua != ub {
		return ua
	}
	if (a.children > 0) != (b.children > 0) {
		return a.children > 0
	}
	if !a.rec.Created.Equal(b.rec.Created) {
		return a.rec.Created.After(b.rec.Created)
	}
	return a.rec.ID > b.rec.ID
}

func depth(l *layer) (n int) {
	for ; l != nil; l = l.parent {
		n++
	}
	return n
}

// recoverMounts counts the mounts of ready layers that an earlier process left, and undoes those
// of unfinished ones and its own. Mounts whose ID is unknown are somebody else's: Check reports them. It returns how many layers are mounted.
func (s *Store) recoverMounts(ctx context.Context) (adopted int, err error) {
	dirs, err := s.mountDirs()
	if err != nil {
		return 0, err
	}
	below, err := mountsIn(dirs)
	if err != nil {
		return 0, err
	}
	own, err := s.readOwn()
	if err != nil {
		return 0, err
	}
	if adopted, err = s.adoptMounts(ctx, below, dirs, own); err != nil {
		return 0, err
	}
	for _, l := range s.byID {
		s.recall(l)
	}
	if err := s.deactivateRest(ctx, below); err != nil {
		return 0, err
	}
	if err := s.sweepMountPoints(dirs); err != nil {
		return 0, err
	}
	if err := s.forgetOwn(own); err != nil {
		return 0, err
	}
	return adopted, s.recoverGates(dirs)
}

// adoptMounts counts the mounts that lie in dirs, and undoes those of own and of layers that are gone. It
// returns how many layers are mounted.
func (s *Store) adoptMounts(ctx context.Context, mounts []mount.Info, dirs []string, own map[string]bool) (adopted int, err error) {
	for _, m := range mounts {
		id := filepath.Base(m.Target)
		l, ours := s.byID[id], own[id]
		if l == nil && !ours || !slices.Contains(dirs, filepath.Dir(m.Target)) {
			continue
		}
		if ours || l.gone {
			if err := mount.Unmount(ctx, m.Target); err != nil {
				return 0, err
			}
			continue
		}
		if l.count.Swap(1) == 0 { // several mounts may lie on one another
			adopted++
		}
		s.recallGate(l, filepath.Dir(m.Target))
	}
	return adopted, nil
}

// readOwn returns the IDs of the layers that noteOwn of an earlier process noted.
func (s *Store) readOwn() (map[string]bool, error) {
	entries, err := os.ReadDir(s.ownPath())
	own := make(map[string]bool, len(entries))
	for _, e := range entries {
		own[e.Name()] = true
	}
	return own, err
}

// forgetOwn removes what noteOwn wrote.
func (s *Store) forgetOwn(own map[string]bool) error {
	for id := range own {
		if err := os.Remove(filepath.Join(s.ownPath(), id)); err != nil {
			return err
		}
	}
	return nil
}

// mountsIn lists the mounts in directories.
func mountsIn(dirs []string) (all []mount.Info, err error) {
	for _, dir := range dirs {
		below, err := mount.Below(dir)
		if err != nil {
			return nil, err
		}
		all = append(all, below...)
	}
	return all, nil
}

// sweepMountPoints removes the directories of layers that were just about to be mounted, or just
// unmounted, when an earlier process died.
func (s *Store) sweepMountPoints(dirs []string) error {
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if l := s.byID[e.Name()]; l != nil && l.count.Load() == 0 {
				_ = os.Remove(filepath.Join(dir, e.Name())) // it is not empty if somebody put something there
			}
		}
	}
	return nil
}

// Close interrupts a background deletion and releases the store. Mounts stay. Calls that are still running must have
// ended before. If ctx ends before the deletion has, the store stays open, and Close may be called again; the end
// of the process releases it as well.
func (s *Store) Close(ctx context.Context) error {
	if s.deleter != nil {
		if err := s.deleter.stop(ctx); err != nil {
			return fmt.Errorf("close store %s: %w", s.cfg.Root, err)
		}
	}
	return s.release()
}

func (s *Store) release() (err error) {
	if s.able.closer != nil {
		err = s.backendError("close", s.able.closer.Close())
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
	s.sync.set(m)
	return nil
}

// writable returns an error if the store is open for inspection only.
func (s *Store) writable() error {
	if s.cfg.ReadOnly {
		return fmt.Errorf("store %s is open read-only: %w", s.cfg.Root, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Info describes the store.
func (s *Store) Info(ctx context.Context) (StoreInfo, error) {
	info := StoreInfo{
		Root: s.cfg.Root, UUID: s.meta.UUID, Format: s.meta.Format, Created: s.meta.Created, Backend: s.meta.Backend,
		Sync: s.sync.mode(), ExactDiffs: s.meta.ExactDiffs, Stores: s.cfg.Stores,
		MountDir: s.cfg.MountDir, Layers: map[State]int{}, Abilities: s.able.describe(s.meta.ExactDiffs),
	}
	s.mu.RLock()
	for _, l := range s.byID {
		info.Layers[l.rec.State]++
		if l.gone { // removed, or left unfinished by a crash
			info.Deleting++
		}
	}
	s.mu.RUnlock()
	dirs, err := s.mountDirs()
	if err != nil {
		return info, err
	}
	mounted, err := mountsIn(dirs)
	if err != nil {
		return info, err
	}
	for _, m := range mounted {
		if slices.Contains(dirs, filepath.Dir(m.Target)) {
			info.Mounted++
		}
	}
	if s.able.reporter != nil {
		if info.Fields, err = s.able.reporter.Report(ctx); err != nil {
			return info, s.backendError("report on", err)
		}
	}
	return info, nil
}

// Damaged counts what Check finds in memory alone: records that could not be read, and layers with one below them that has
// none. It does not look at the disk.
func (s *Store) Damaged() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := len(s.bad)
	for _, l := range s.byName {
		if !l.gone && l.whole() != nil {
			n++
		}
	}
	return n
}

// Stat describes a layer, also one whose Remove has not returned. ErrNotFound.
func (s *Store) Stat(ctx context.Context, name string) (Info, error) {
	l, err := s.lookup(ctx, name)
	if err != nil {
		return Info{}, err
	}
	return s.info(l), nil
}

// StatID describes the layer with that ID. ErrNotFound.
func (s *Store) StatID(_ context.Context, id string) (Info, error) {
	s.mu.RLock()
	l := s.byID[id]
	for _, p := range s.peers {
		if l == nil {
			l = p.byID[id]
		}
	}
	there := l != nil && l.rec.State != StateCreating && l.rec.State != StateRemoving
	s.mu.RUnlock()
	if !there {
		return Info{}, fmt.Errorf("layer with ID %q: %w", id, errdefs.ErrNotFound)
	}
	return s.info(l), nil
}

// Describe returns what the backend has to tell about a layer, nothing if it has not. ErrNotFound.
func (s *Store) Describe(ctx context.Context, name string) ([]backend.Field, error) {
	l, err := s.lookup(ctx, name)
	if err != nil || s.able.describer == nil {
		return nil, err
	}
	fields, err := s.able.describer.Describe(ctx, s.describe(l))
	return fields, s.layerError("describe", l, err)
}

// List describes all layers, those of additional stores included, sorted by name.
func (s *Store) List(ctx context.Context) ([]Info, error) {
	if _, err := s.reloadPeers(ctx); err != nil {
		return nil, fmt.Errorf("list layers: %w", err)
	}
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
		Mounts: int(l.count.Load()), MountDir: s.pointOf(l),
	}
	if l.parent != nil {
		i.Parent = l.parent.rec.Name
	}
	if l.peer != nil {
		i.Store = l.peer.root
	}
	return i
}
