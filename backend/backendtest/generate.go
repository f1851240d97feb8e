package backendtest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"time"
)

// Special mode bits under short names.
const (
	modeSetuid = os.ModeSetuid
	modeSetgid = os.ModeSetgid
	modeSticky = os.ModeSticky
)

// Noise returns n bytes that do not compress and depend on the seed only.
func Noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	var s [32]byte
	for i := range 8 {
		s[i] = byte(seed >> (8 * i))
	}
	_, _ = rand.NewChaCha8(s).Read(b) // documented never to fail
	return b
}

// newRand returns a generator that depends on the seed only.
func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x5712a7a)) }

// rootDirs are where the files of a Debian system lie.
var rootDirs = [...]string{
	"bin", "etc", "etc/default", "usr/bin", "usr/lib/x86_64-linux-gnu", "usr/lib/python3/dist-packages/pkg",
	"usr/share/doc/libc6", "usr/share/doc/bash", "usr/share/man/man1", "usr/share/zoneinfo/Europe",
	"usr/share/locale/de/LC_MESSAGES", "var/lib/dpkg/info", "var/lib/apt/lists", "var/cache/debconf", "root",
}

// Root makes a tree that resembles a Debian root file system: files of the given number, most of
// them small, with symbolic and hard links, odd modes and owners among them. The same seed makes
// the same tree.
func Root(seed uint64, files int) Step {
	return func(root string) error {
		rnd := newRand(seed)
		for _, d := range rootDirs {
			if err := MkdirAll(d)(root); err != nil {
				return err
			}
		}
		for i := range files {
			if err := rootFile(rnd, i)(root); err != nil {
				return err
			}
		}
		for i, d := range rootDirs {
			if err := SetTime(d, old.Add(time.Duration(i)*time.Minute))(root); err != nil {
				return err
			}
		}
		return nil
	}
}

// rootPath is where the i-th file of a Root lies.
func rootPath(i int) string {
	return path.Join(rootDirs[i%len(rootDirs)], fmt.Sprintf("file%05d", i))
}

// rootFile makes the i-th file. Half of all files have less than 1.5 KiB, one in fifty up to 200 KiB.
func rootFile(rnd *rand.Rand, i int) Step {
	name, when := rootPath(i), old.Add(time.Duration(rnd.Int64N(int64(1e8)))*time.Second/10)
	switch {
	case i%19 == 18:
		return Steps(Symlink(fmt.Sprintf("file%05d", i-18), name), SetTime(name, when))
	case i%53 == 52:
		return Link(rootPath(i-1), name)
	}
	size := rnd.IntN(3000)
	if rnd.IntN(50) == 0 {
		size = rnd.IntN(200 << 10)
	}
	mode := []os.FileMode{0o644, 0o644, 0o755, 0o600, 0o755 | modeSetuid}[rnd.IntN(5)]
	return Steps(CreateFile(name, Noise(rnd.Uint64(), size), 0o600),
		Chown(name, rnd.IntN(3), rnd.IntN(3)), Chmod(name, mode), SetTime(name, when))
}

// Churn makes n changes to a tree made by Root with that many files, as a package upgrade would:
// content, modes, owners, times, attributes, deletions, additions, replaced directories. Each
// change makes a difference: nothing is only touched.
func Churn(seed uint64, n, files int) Step {
	return func(root string) error {
		rnd := newRand(seed)
		gone := map[string]bool{}
		for i := range n {
			if err := churnOne(rnd, i, rootPath(rnd.IntN(files)), gone)(root); err != nil {
				return err
			}
		}
		return Steps(Replace("usr/share/man/man1", 0o755), CreateFile("usr/share/man/man1/only", []byte("x"), 0o644),
			RemoveAll("usr/share/zoneinfo"), MkdirAll("usr/share/zoneinfo/Asia"))(root)
	}
}

// churnOne changes the file name, at most once in a row of calls with the same map. Links stay as
// they are: what becomes of a group of hard links is a matter of the file system.
func churnOne(rnd *rand.Rand, i int, name string, done map[string]bool) Step {
	fresh := path.Join(path.Dir(name), fmt.Sprintf("fresh%05d", i))
	add := CreateFile(fresh, Noise(rnd.Uint64(), rnd.IntN(5000)), 0o644)
	if done[name] {
		return add
	}
	return func(root string) error {
		single, err := isSingle(path.Join(root, name))
		if err != nil || !single {
			return err
		}
		done[name] = true
		switch rnd.IntN(8) {
		case 0:
			return Append(name, []byte("more"))(root)
		case 1:
			return Chmod(name, 0o711)(root)
		case 2:
			return Chown(name, 100+i, 100)(root)
		case 3:
			return SetTime(name, old.Add(-time.Duration(i+1)*time.Hour))(root)
		case 4:
			return SetXattr(name, "user.churn", fmt.Sprint(i))(root)
		case 5:
			return Remove(name)(root)
		case 6:
			return Steps(Remove(name), Mkdir(name, 0o755), CreateFile(path.Join(name, "in"), nil, 0o644))(root)
		}
		return add(root)
	}
}

// isSingle reports whether path is a regular file with one name.
func isSingle(path string) (bool, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return false, err
	}
	in, err := inodeOf(fi)
	return fi.Mode().IsRegular() && in.links == 1, err
}
