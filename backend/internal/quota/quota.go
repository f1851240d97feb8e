// Package quota limits the size of directories by project quota, on ext4 and xfs.
//
// A project is a number that a directory passes on to everything that is made in it; the file system
// counts what files with the same number occupy and refuses to let it exceed a limit (EDQUOT; ENOSPC
// on xfs). [Projects] gives directories numbers and the numbers limits.
//
// # What belongs to the administrator
//
// Accounting and enforcement are switched on with the mount option prjquota. This package never
// switches anything for a whole file system; where they are off, everything is ErrNotImplemented
// with the way to switch them on.
//
// Numbers are taken from 65536 that depend on the directory of the store, beyond 2^30, so that two
// stores seldom compete and an administrator's never. A number that is named in /etc/projects or
// /etc/projid, or that the file system has any record of, is passed over. Which number a directory
// has is stored in the directory itself and nowhere else.
//
// # Who is bounded
//
// On ext4, everybody without CAP_SYS_RESOURCE (ignore_hardlimit in fs/quota/dquot.c): containers, but not
// this process. Writes through an overlay mount are bounded whoever makes them (ovl_fill_super in
// fs/overlayfs/super.c gives up the capability). On xfs, everybody.
//
// # Units
//
// Sizes are bytes here. The kernel is told blocks of 512 bytes by way of Q_XSETQLIM, on ext4 too
// (struct fs_disk_quota, include/uapi/linux/dqblk_xfs.h; fs/quota/quota.c translates), rather than
// Q_SETQUOTA's of 1024. A limit is rounded up to whole blocks of the file system by what it counts.
package quota

import (
	"bufio"
	"fmt"
	"hash/fnv"
	"io"
	"strconv"
	"strings"
)

const (
	firstID   = 1 << 30 // numbers below are the administrator's
	rangeBits = 16      // a store has 1<<rangeBits numbers
	rangeSize = 1 << rangeBits
	ranges    = 1 << 14 // firstID + ranges*rangeSize is 1<<31
)

// rangeOf returns the first of the numbers that belong to the store in dir.
func rangeOf(dir string) uint32 {
	h := fnv.New32a()
	_, _ = io.WriteString(h, dir) // a hash never fails to write
	return firstID + h.Sum32()%ranges*rangeSize
}

// parseIDs reads the numbers in /etc/projects (NUMBER:DIRECTORY) or /etc/projid (NAME:NUMBER):
// projects(5), projid(5). field is which of the two it is. Lines that are no such entry are ignored,
// as xfs_quota does.
func parseIDs(r io.Reader, field int) (map[uint32]bool, error) {
	ids := map[uint32]bool{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.SplitN(strings.TrimSpace(line), ":", 2)
		if len(fields) != 2 {
			continue
		}
		if id, err := strconv.ParseUint(strings.TrimSpace(fields[field]), 10, 32); err == nil {
			ids[uint32(id)] = true
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read project numbers: %w", err)
	}
	return ids, nil
}
