package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// gates are the directories through which the root of a container's user namespace reaches its layers. A set-user-ID file in a
// layer is one on the host (compare CVE-2021-41091), so MountDir, where layers without an ID map are mounted, lets nobody
// but root pass. A layer with a map is mounted in a directory beside it, which belongs to the group that the map gives
// the container's root and lets that group pass, as long as something is mounted there.
type gates struct {
	mu   sync.Mutex // held while directories are made, opened, closed and removed
	open map[string]*gate
}

// gate is a directory that is open to a group.
type gate struct {
	gid    uint32
	layers map[string]bool // the IDs of those that are mounted in it
}

const (
	closedMode = 0o700
	groupMode  = 0o710 // to be passed through by the group, not listed
	passMode   = 0o711 // to be passed through by everybody
)

// group returns the host's group of the root of those containers that a layer is for. mapped is false if the layer has no ID map, or one
// without a root. It wants s.mu.
func (l *layer) group() (gid uint32, mapped bool) {
	m := l.data().rec.IDMap
	if m == nil {
		return 0, false
	}
	_, gid, err := m.Root()
	return gid, err == nil // a map without a root has nobody to let in
}

// pointOf is mountPoint for whoever has s.mu.
func (s *Store) pointOf(l *layer) string {
	dir := s.cfg.MountDir
	if gid, mapped := l.group(); mapped && !l.outside {
		dir = s.gateDir(gid)
	}
	return filepath.Join(dir, l.rec.ID)
}

func (s *Store) gateDir(gid uint32) string {
	return s.cfg.MountDir + "-" + strconv.FormatUint(uint64(gid), 10)
}

// mountDirs lists the directories that layers are mounted in, MountDir first.
func (s *Store) mountDirs() ([]string, error) {
	dirs := []string{s.cfg.MountDir}
	parent, prefix := filepath.Split(s.cfg.MountDir + "-")
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		rest, ours := strings.CutPrefix(e.Name(), prefix)
		if _, err := strconv.ParseUint(rest, 10, 32); ours && err == nil && e.IsDir() {
			dirs = append(dirs, filepath.Join(parent, e.Name()))
		}
	}
	return dirs, nil
}

// makeMountPoint makes the directory that a layer is to be mounted on, and opens the gate before it.
func (s *Store) makeMountPoint(l *layer) error {
	s.mu.RLock()
	point := s.pointOf(l)
	gid, mapped := l.group()
	s.mu.RUnlock()
	s.gates.mu.Lock()
	defer s.gates.mu.Unlock()
	if mapped {
		if err := s.openGate(filepath.Dir(point), gid); err != nil {
			return err
		}
		s.gates.note(filepath.Dir(point), gid, l.rec.ID)
	}
	if err := os.Mkdir(point, closedMode); err != nil && !errors.Is(err, os.ErrExist) {
		return errors.Join(err, s.closeGate(filepath.Dir(point), l.rec.ID))
	}
	return nil
}

// removeMountPoint removes the directory that a layer was mounted on, and closes the gate after the last one. What somebody has put
// into the directory below the mount stays there, as sweepMountPoints leaves it.
func (s *Store) removeMountPoint(l *layer) error {
	point := s.mountPoint(l)
	s.gates.mu.Lock()
	defer s.gates.mu.Unlock()
	if err := os.Remove(point); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	return s.closeGate(filepath.Dir(point), l.rec.ID)
}

// note remembers that a layer is mounted in a directory. It wants g.mu.
func (g *gates) note(dir string, gid uint32, id string) {
	if g.open == nil {
		g.open = map[string]*gate{}
	}
	if g.open[dir] == nil {
		g.open[dir] = &gate{gid: gid, layers: map[string]bool{}}
	}
	g.open[dir].layers[id] = true
}

// recallGate notes, when the store is opened, that an earlier process has mounted a layer in a directory.
func (s *Store) recallGate(l *layer, dir string) {
	gid, mapped := l.group()
	if !mapped {
		return
	}
	l.outside = dir == s.cfg.MountDir
	s.gates.note(dir, gid, l.rec.ID)
}

// openGate lets a group pass through a directory, which is made if need be. It wants gates.mu.
func (s *Store) openGate(dir string, gid uint32) error {
	if s.gates.open[dir] != nil {
		return nil
	}
	if err := makeDir(dir); err != nil {
		return err
	}
	if err := setAccess(dir, groupMode, gid); err != nil {
		return err
	}
	return s.setRootAccess(gid)
}

// closeGate closes a directory if the layer was the last that is mounted in it. It wants gates.mu.
func (s *Store) closeGate(dir, id string) error {
	g := s.gates.open[dir]
	if g == nil {
		return nil
	}
	delete(g.layers, id)
	if len(g.layers) > 0 {
		return nil
	}
	if err := s.shut(dir); err != nil {
		return err
	}
	delete(s.gates.open, dir)
	return s.setRootAccess()
}

// shut closes a directory to all but root, and removes it if it is empty and not MountDir.
func (s *Store) shut(dir string) error {
	if dir != s.cfg.MountDir {
		if err := os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	return setAccess(dir, closedMode, ourGroup())
}

// setRootAccess lets the groups of the open gates, and one more, pass through the store's directory if mounts lie in it, and closes it
// if there are none. A root that has another mode is somebody's own and stays as it is, if it lets pass who has to. It wants gates.mu.
func (s *Store) setRootAccess(more ...uint32) error {
	groups := map[uint32]bool{}
	for _, g := range s.gates.open {
		groups[g.gid] = true
	}
	for _, gid := range more {
		groups[gid] = true
	}
	if filepath.Dir(s.cfg.MountDir) != s.cfg.Root {
		groups = nil
	}
	fi, err := os.Stat(s.cfg.Root)
	if err != nil {
		return err
	}
	mode := fi.Mode().Perm()
	switch ours := mode == groupMode || mode == passMode; {
	case len(groups) == 0 && ours:
		return setAccess(s.cfg.Root, closedMode, ourGroup())
	case len(groups) == 0, !ours && mode&0o001 != 0:
		return nil
	case len(groups) > 1:
		return setAccess(s.cfg.Root, passMode, ourGroup()) // what is in it is closed
	}
	for gid := range groups {
		err = setAccess(s.cfg.Root, groupMode, gid)
	}
	return err
}

// ourGroup is the group of closed directories: root's, where root runs the store.
func ourGroup() uint32 { return uint32(os.Getegid()) }

// setAccess gives a directory a mode and a group. Meanwhile it is open to nobody whom the old or the new mode keeps out, and closed to
// nobody whom both let pass.
func setAccess(dir string, mode os.FileMode, gid uint32) error {
	if same, err := hasAccess(dir, mode, gid); same || err != nil { // ZFS on a full disk refuses to set it again
		return err
	}
	chmod := func() error { return os.Chmod(dir, mode) }
	chown := func() error { return os.Chown(dir, -1, int(gid)) }
	steps := []func() error{chmod, chown}
	if mode == groupMode {
		steps = []func() error{chown, chmod}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// recoverGates closes what an earlier process left open, but for what is mounted. Where MountDir itself is open, an earlier version has mounted
// layers with an ID map in it, without gates: it stays so until the last of them is unmounted.
func (s *Store) recoverGates(dirs []string) error {
	s.gates.mu.Lock()
	defer s.gates.mu.Unlock()
	for _, dir := range dirs {
		if s.gates.open[dir] != nil {
			continue
		}
		if err := s.shut(dir); err != nil {
			return fmt.Errorf("close %s: %w", dir, err)
		}
	}
	return s.setRootAccess()
}
