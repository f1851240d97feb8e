package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strata/backend/regular"
	"strata/plugin"
)

// layerDB returns the directory where Docker keeps its record of the layers of the driver whose
// home it says is home (moby layer/filestore.go), as seen here, and the data root that it lies in;
// "" if it is not there or cannot be seen. dataRoot is Docker's data root, "" for the one that home
// lies in. home is "" if Docker has said nothing.
func layerDB(dataRoot, home string) (dir, root string) {
	name := ""
	for home != "" && home != filepath.Dir(home) {
		name = filepath.Join(filepath.Base(home), name) // as the user typed it, so that there may be slashes in it
		home = filepath.Dir(home)
		if root = dataRoot; root == "" {
			root = home
		}
		dir = filepath.Join(root, "image", name, "layerdb")
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
			return dir, root
		}
	}
	return "", ""
}

// lost counts what Docker has known since before the store was made, and the store does not have:
// layers of images, and containers. They were in another store, on a disk that is not mounted, or
// in a directory that was removed.
func (s *Session[S]) lost(ctx context.Context, db string) (images, containers int, err error) {
	if images, err = s.unknown(ctx, filepath.Join(db, "sha256"), "cache-id"); err != nil {
		return 0, 0, err
	}
	containers, err = s.unknown(ctx, filepath.Join(db, "mounts"), "mount-id")
	return images, containers, err
}

// unknown counts the directories in dir that are older than the store, and in which file holds the
// ID of a layer that it does not have.
func (s *Session[S]) unknown(ctx context.Context, dir, file string) (n int, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		text, err := readOlder(filepath.Join(dir, e.Name(), file), s.Info.Created)
		switch {
		case errors.Is(err, fs.ErrNotExist): // it is younger, or Docker removes it
			continue
		case err != nil:
			return n, err
		}
		if _, err := s.Store.Stat(ctx, strings.TrimSpace(string(text))); errdefs.IsNotFound(err) {
			n++
		} else if err != nil {
			return n, err
		}
	}
	return n, nil
}

// readOlder reads a file that was written before t; fs.ErrNotExist for others.
func readOlder(path string, t time.Time) ([]byte, error) {
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !fi.ModTime().Before(t):
		return nil, fs.ErrNotExist
	}
	return regular.Read(path, plugin.MaxWord)
}

// lostWarning says what Docker knows and the store does not have, "" for nothing.
func (k *Keeper[S]) lostWarning(ctx context.Context, s *Session[S]) string {
	db, root := layerDB(k.o.Place.DockerRoot, s.Init.Home)
	if db == "" {
		return ""
	}
	images, containers, err := s.lost(ctx, db)
	switch {
	case err != nil:
		return k.o.Place.hostText(fmt.Sprintf("cannot compare the store with Docker's record of layers: %v", err))
	case images+containers == 0:
		return ""
	}
	return k.o.Place.hostText(fmt.Sprintf("the store in %s is new (%s), and Docker has older layers that are not in it: %d of images and %d of containers (strata check --docker-root %s names them). "+
		"If the disk with the old store is not mounted, stop Docker, mount it and start Docker again; if the old store is gone, remove these containers and images",
		s.Info.Root, s.Info.Created.Local().Format(time.DateTime), images, containers, root))
}
