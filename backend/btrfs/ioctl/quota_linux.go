package ioctl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// Quota says whether and how a file system counts what subvolumes occupy.
type Quota int

// What there is of quotas.
const (
	QuotaOff Quota = iota
	QuotaFull
	QuotaSimple // from Linux 6.7 on: counts for the subvolume that wrote
)

// String is what reports show.
func (q Quota) String() string {
	switch q {
	case QuotaFull:
		return "on"
	case QuotaSimple:
		return "simple"
	default:
		return "off"
	}
}

// QuotaOf reads the status of quotas.
func QuotaOf(ctx context.Context, fd int) (Quota, error) {
	const ( // BTRFS_QGROUP_STATUS_FLAG_*, include/uapi/linux/btrfs_tree.h
		on     = 1 << 0
		simple = 1 << 3
	)
	q, at := QuotaOff, key{kind: typeQgroupStatus}
	err := search(ctx, fd, span{tree: quotaTree, buffer: lookupBuffer, from: at, to: at}, func(i item) error {
		if len(i.data) < 24 { // version, generation, flags
			return damaged(i)
		}
		switch flags := binary.LittleEndian.Uint64(i.data[16:]); {
		case flags&on == 0:
		case flags&simple != 0:
			q = QuotaSimple
		default:
			q = QuotaFull
		}
		return errStop
	})
	if errors.Is(err, unix.ENOENT) { // no quota tree
		return QuotaOff, nil
	}
	if err != nil {
		return QuotaOff, fmt.Errorf("read quota status: %w", err)
	}
	return q, nil
}

// qgroupLimit is struct btrfs_ioctl_qgroup_limit_args. A qgroup of 0 is that of the subvolume that the descriptor is in.
type qgroupLimit struct {
	qgroup                                uint64
	flags                                 uint64
	maxReferenced, maxExclusive           uint64
	reservedReferenced, reservedExclusive uint64
}

// SetLimit limits the exclusive bytes of the subvolume fd; 0 is no limit.
func SetLimit(fd int, bytes int64) error {
	const maxExclusive = 1 << 1 // BTRFS_QGROUP_LIMIT_MAX_EXCL
	args := qgroupLimit{flags: maxExclusive, maxExclusive: uint64(bytes)}
	if bytes <= 0 {
		args.maxExclusive = math.MaxUint64 // clears it, from Linux 3.12 on (fs/btrfs/qgroup.c, CLEAR_VALUE)
	}
	if err := ioctl(fd, dirOut, nrQgroupLimit, &args); err != nil {
		return fmt.Errorf("set limit of qgroup: %w", err)
	}
	return nil
}

// qgroupCreate is struct btrfs_ioctl_qgroup_create_args.
type qgroupCreate struct{ create, qgroup uint64 }

// DestroyQgroup removes the qgroup 0/<subvolume>, if there is one. Kernels from 6.11 on answer EBUSY
// until the subvolume's space is freed, and then remove the qgroup themselves.
func DestroyQgroup(fd int, subvolume uint64) error {
	args := qgroupCreate{qgroup: subvolume}
	err := ioctl(fd, dirIn, nrQgroupCreate, &args)
	for _, fine := range []error{
		unix.ENOENT, unix.EBUSY, unix.ENOTCONN, // gone, later, quotas are off
		unix.EINVAL, // quotas are off, before Linux 5.9
	} {
		if errors.Is(err, fine) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("delete qgroup 0/%d: %w", subvolume, err)
	}
	return nil
}
