package loopfs

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// poolPrefix begins the names of the pools that tests make.
const poolPrefix = "strata-test-"

// envZFS says that ZFS has to be there: a test that needs it fails without.
const envZFS = "STRATA_TEST_ZFS"

// poolOn makes a ZFS pool on a new sparse file and mounts it in a private place until the test ends.
func poolOn(t testing.TB, image string, size int64) string {
	t.Helper()
	if _, err := os.Stat("/dev/zfs"); err != nil {
		if os.Getenv(envZFS) != "" {
			t.Fatal(err)
		}
		t.Skip("this kernel has no ZFS; scripts/test zfs runs the test in one that has")
	}
	dir := filepath.Join(t.TempDir(), "fs")
	makeSparse(t, image, size)
	pool := poolPrefix + strings.ToLower(rand.Text()[:8])
	Command(t, "zpool", "create", "-f", "-m", dir, pool, image)
	t.Cleanup(func() { destroyPool(t, pool, dir) })
	return dir
}

// destroyPool fails the test if something is still mounted from the pool, and destroys it all the same.
func destroyPool(t testing.TB, pool, dir string) {
	t.Helper()
	below, err := MountsBelow(dir)
	if err != nil {
		t.Errorf("list mounts: %v", err)
	}
	for i := len(below) - 1; i >= 0; i-- {
		if below[i] != dir {
			t.Errorf("mount left behind: %s", below[i])
			Command(t, "umount", "-l", below[i])
		}
	}
	var out []byte
	for deadline := time.Now().Add(loopPatience); time.Now().Before(deadline); time.Sleep(time.Second) {
		if out, err = tool("zpool", "destroy", "-f", pool); err == nil {
			return
		}
	}
	t.Errorf("zpool destroy %s: %v: %s", pool, err, out)
}

// Datasets lists the datasets and snapshots that belong to a store, whatever pool they are in.
func Datasets(t testing.TB, uuid string) []string {
	t.Helper()
	out, err := tool("zfs", "list", "-H", "-o", "name,strata:store", "-t", "all")
	if err != nil {
		t.Fatalf("zfs list: %v: %s", err, out)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		if name, owner, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); owner == uuid {
			names = append(names, name)
		}
	}
	return names
}

// SyncPools waits until what was written and what was freed so far is on disk: what is freed in one transaction
// group can be used in the next but one.
func SyncPools() error {
	for range 3 {
		if out, err := tool("zpool", "sync"); err != nil {
			return fmt.Errorf("zpool sync: %w: %s", err, out)
		}
	}
	return nil
}

func tool(args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	return exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput() //nolint:gosec // a test's own arguments
}
