package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Cache keeps what is expensive to make between runs. It is safe for use by several processes at
// once: an entry is made under a lock and appears whole or not at all.
type Cache struct{ Dir string }

// OpenCache returns the cache, making its directory if need be.
func OpenCache() (*Cache, error) {
	dir := os.Getenv("STRATA_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("find cache: %w", err)
		}
		dir = filepath.Join(user, "strata")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	return &Cache{Dir: dir}, nil
}

// SourceRoot returns the directory of the go.mod at or above the working directory.
func SourceRoot() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find source tree: %w", err)
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find source tree: no go.mod at or above %s", wd)
		}
	}
}

// Entry returns the path of the named entry. If it is missing, make is called with the path of a
// new empty directory to fill; its error leaves the cache as it was.
func (c *Cache) Entry(ctx context.Context, name string, build func(ctx context.Context, dir string) error) (path string, err error) {
	path = filepath.Join(c.Dir, name)
	unlock, err := lock(path + ".lock")
	if err != nil {
		return "", fmt.Errorf("lock cache entry %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	tmp, err := os.MkdirTemp(c.Dir, name+".tmp-")
	if err != nil {
		return "", fmt.Errorf("make cache entry %s: %w", name, err)
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", fmt.Errorf("make cache entry %s: %w", name, err)
	}
	if err := build(ctx, tmp); err != nil {
		return "", errors.Join(fmt.Errorf("make cache entry %s: %w", name, err), os.RemoveAll(tmp))
	}
	return path, os.Rename(tmp, path)
}

// lock takes an exclusive flock on path and returns the function that gives it back.
func lock(path string) (func() error, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f.Close, nil
}
