package dirsink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strata/backend"
	"strata/backend/internal/layertar/openat"
	"strata/backend/internal/layertar/tarcodec"
)

// contestedFile, in the root, lists paths until Settle: directories that were implied while it was not known what lies below, and
// then removed, described or made opaque. If the layers below have something other than a directory there, it would have come
// otherwise. Its name cannot come from a tar.
const contestedFile = tarcodec.MetaPrefix + "strata.contested"

// maxContested bounds that list, bytes.
const maxContested = 16 << 20

// maxNear is how many directories are remembered from which the way to the next one may be short.
const maxNear = 64

// contested is the list as far as this Apply adds to it. A path shares its beginning with the one before it: varint bytes shared,
// varint bytes that follow, these bytes. So a deep tree takes no more room than its names.
type contested struct {
	list []byte
	last string
}

func (c *contested) add(path string) error {
	shared := 0
	for shared < min(len(path), len(c.last)) && path[shared] == c.last[shared] {
		shared++
	}
	c.list = binary.AppendUvarint(c.list, uint64(shared))
	c.list = binary.AppendUvarint(c.list, uint64(len(path)-shared))
	c.list = append(c.list, path[shared:]...)
	if c.last = path; len(c.list) > maxContested {
		return errTooMany("bytes in names of directories that come after what they hold, before the layers below are known", maxContested)
	}
	return nil
}

// contestedPaths reads a list.
func contestedPaths(list []byte) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		path := ""
		for len(list) > 0 {
			shared, n := binary.Uvarint(list)
			follow, m := binary.Uvarint(list[max(n, 0):])
			if n <= 0 || m <= 0 || shared > uint64(len(path)) || follow > uint64(len(list)-n-m) {
				yield("", fmt.Errorf("%s is damaged: %w", contestedFile, errdefs.ErrDataLoss))
				return
			}
			list = list[n+m:]
			path = path[:shared] + string(list[:follow])
			list = list[follow:]
			if !yield(path, nil) {
				return
			}
		}
	}
}

// contest notes a directory that is about to wait for Settle no longer, if it does.
func (a *sink) contest(fd int, path string) error {
	if a.tree.view.known() {
		return nil
	}
	waits, err := hasMark(fd, a.tree.view.implied())
	if !waits || err != nil {
		return err
	}
	return a.contested.add(path)
}

// save adds to the list in the root.
func (c *contested) save(a *sink) (err error) {
	if len(c.list) == 0 {
		return nil
	}
	a.touched.add(contestedFile, false)
	fd, err := unix.Openat(a.tree.root.fd, contestedFile, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("make %s: %w", contestedFile, err)
	}
	f := os.NewFile(uintptr(fd), contestedFile)
	_, err = f.Write(c.list)
	return errors.Join(err, f.Close())
}

// decide refuses the layer if the layers below have something other than a directory at a path on the list, and removes the
// list if not.
func (s *settler) decide() (err error) {
	root := s.tree.root.fd
	fd, err := openat.OpenFileAt(root, contestedFile)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", contestedFile, err)
	}
	f := os.NewFile(uintptr(fd), contestedFile)
	text, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("read %s: %w", contestedFile, err)
	}
	if err := s.judge(text); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return err
	}
	if err := unix.Unlinkat(root, contestedFile, 0); err != nil {
		return err
	}
	return unix.UtimesNanoAt(root, ".", []unix.Timespec{st.Atim, st.Mtim}, 0)
}

// judge goes through the list. It goes on from a directory that is on the list too and was among the last: not from the root, which
// may be far.
func (s *settler) judge(list []byte) error {
	type place struct{ path, at string }
	var near []place // each in the one before it
	for path, err := range contestedPaths(list) {
		if err != nil {
			return err
		}
		for len(near) > 0 && !tarcodec.Within(path, near[len(near)-1].path) {
			near = near[:len(near)-1]
		}
		from, rest := ".", path
		if len(near) > 0 {
			above := near[len(near)-1]
			from, rest = above.at, path[len(above.path):]
		}
		s.tree.budget.entries++
		at, n, err := s.trace(from, rest, false)
		if err != nil {
			return err
		}
		if n != nil && kindOf(n.Mode) != isDir {
			return errTwice(path)
		}
		if near = append(near, place{path, at}); len(near) > maxNear {
			near = near[1:]
		}
	}
	return nil
}

// trace follows a path from a directory through the symlinks of the layers below, and that of the last name if last is set. It
// returns where it leads, and what is there.
func (s *settler) trace(from, path string, last bool) (at string, n *backend.Node, err error) {
	at = from
	todo := strings.Split(path, "/")
	for links := 0; len(todo) > 0; {
		if err := s.tree.alive(); err != nil {
			return "", nil, err
		}
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at, _ = tarcodec.SplitName(at)
			continue
		}
		if n, err = s.below.Lookup(tarcodec.JoinName(at, part)); err != nil {
			return "", nil, err
		}
		if n == nil || kindOf(n.Mode) != isLink || !last && len(todo) == 0 {
			at = tarcodec.JoinName(at, part)
			continue
		}
		if links++; links > maxLinks {
			return "", nil, fmt.Errorf("open directory %.200q: %w", path, unix.ELOOP)
		}
		if strings.HasPrefix(n.Target, "/") {
			at = "."
		}
		way, err := s.tree.budget.detour(n.Target)
		if err != nil {
			return "", nil, err
		}
		todo = append(way, todo...)
	}
	return at, n, nil
}
