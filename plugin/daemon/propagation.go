package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"strata/backend/store"
)

const (
	// watchEvery is how often the process looks whether its propagated mount is still there. The mount table of a plugin
	// does not show that it is gone, so there is nothing to wait for.
	watchEvery = time.Second
	// anewFile, in the propagated mount, is there if the last process ended because the host never saw its mounts. Docker starts
	// a plugin that ended at once, and as often as it ends.
	anewFile = ".anew"
	// anewFor is how long that counts: the next process starts within a second.
	anewFor = 30 * time.Second
	// knockPatience is how long dockerd may take to see that a plugin listens which it has started: it looks after half a second,
	// and, when it is late, that is the machine's load.
	knockPatience = 15 * time.Second
)

// errTaken is why a process ends whose mounts the host no longer sees.
var errTaken = fmt.Errorf("dockerd has taken the propagated mount away, so the host does not see what is mounted there; the plugin starts anew: %w",
	errdefs.ErrUnavailable)

// begin is called when the process starts. It returns errTaken if the process should end, so that Docker gives the next one a
// new propagated mount, and another error if an earlier one has tried that in vain.
func (p Placement) begin(seen func(dir string) (bool, error)) error {
	if p.own == "" {
		return nil
	}
	ok, err := seen(p.own)
	if err != nil {
		return err
	}
	mark := filepath.Join(p.own, anewFile)
	if ok {
		if err := os.Remove(mark); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	fi, err := os.Stat(mark)
	if err == nil && time.Since(fi.ModTime()) < anewFor {
		return fmt.Errorf("the host sees what the plugin mounts neither in %[1]s nor in the propagated mount: make %[1]s a shared mount of its own "+
			"(mount -t tmpfs tmpfs %[1]s; mount --make-shared %[1]s, before dockerd starts): %[2]w", hostRun, errdefs.ErrFailedPrecondition)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return err
	}
	if err := os.Chtimes(mark, time.Time{}, time.Now()); err != nil {
		return err
	}
	return errTaken
}

// unseen returns errTaken if the host does not see what is mounted for Docker.
func (d *daemon) unseen() error {
	if d.place.own == "" {
		return nil
	}
	if seen, err := store.Seen(d.place.own); seen || err != nil {
		return err
	}
	d.taken.Do(func() { close(d.ending) })
	return errTaken
}

// watch returns errTaken when the propagated mount has been taken away, nil when ctx ends.
func (d *daemon) watch(ctx context.Context) error {
	if d.place.own == "" {
		<-ctx.Done()
		return nil
	}
	begun := time.Now()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.ending:
			return d.awaitKnock(ctx, begun)
		case <-tick.C:
			// What else goes wrong, such as a full disk, says nothing about the mount.
			_ = d.unseen() //nolint:contextcheck // nothing in it waits
		}
	}
}

// awaitKnock returns errTaken once dockerd knows that this process listens, nil when ctx ends. While dockerd tries to find that
// out about a plugin that has started anew it starts no other: it would wait twelve seconds, and disable the plugin (moby
// plugin/manager_linux.go, pluginPostStart).
func (d *daemon) awaitKnock(ctx context.Context, begun time.Time) error {
	late := time.NewTimer(time.Until(begun.Add(knockPatience)))
	defer late.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-d.knocked:
	case <-late.C:
	}
	return errTaken
}
