package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"strata/backend"
)

// Seen reports whether what is mounted in dir, which must exist, appears in a peer of the mount that dir lies on as well: in another
// mount namespace, as a rule. It tries, with an empty tmpfs that is gone when it returns. A crash can leave that, in a directory
// called .seen-*. Slaves do not count: a container has some of its own mounts.
//
// The mount table alone cannot tell. A mount is shared, and says so, even if there is nobody left to share with: because its
// peers were unmounted, or because a copy was made shared that belonged to nobody. The copies that a new mount gets in
// its parent's peers are its own peers, however, and a mount that is made a slave gets a master only if it has a peer
// (do_make_slave in fs/pnode.c).
func Seen(dir string) (seen bool, err error) {
	probe, err := os.MkdirTemp(dir, ".seen-")
	if err != nil {
		return false, fmt.Errorf("try a mount: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(probe)) }()
	ctx := context.Background() // nothing here waits
	if err := Mount(ctx, []backend.Mount{{Type: "tmpfs", Source: "strata", Options: []string{"ro", "size=4k"}}}, probe); err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, unmountOne(ctx, probe)) }()
	if err := unix.Mount("", probe, "", unix.MS_SLAVE, ""); err != nil {
		return false, fmt.Errorf("make mount %s a slave: %w", probe, err)
	}
	id, err := mountID(probe)
	if err != nil {
		return false, fmt.Errorf("find mount of %s: %w", probe, err)
	}
	entry, err := entryOf(id)
	if err != nil {
		return false, fmt.Errorf("find mount of %s: %w", probe, err)
	}
	return strings.Contains(entry.Optional, "master:"), nil
}
