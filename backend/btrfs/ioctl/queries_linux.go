package ioctl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// Visitor is told what a [Walk] meets, inode by inode. A nil function is told nothing.
type Visitor struct {
	Inode  func(Inode)
	Name   func(inode, dir uint64) // a name of the inode is in a directory
	Extent func(Extent)
}

// Walk searches a subvolume, 0 being the one that fd lies in, for items in blocks that a transaction after since has
// written. They come by inode number, an inode before its names and extents. Other items of those blocks come with them.
// What has not reached the disk is not found (Sync).
func Walk(ctx context.Context, fd int, subvolume, since uint64, v Visitor) error {
	s := span{tree: subvolume, from: key{object: RootDir}, to: lastKey(), youngerBy: since + 1}
	return search(ctx, fd, s, v.visit)
}

func (v Visitor) visit(i item) error {
	switch {
	case i.kind == typeInode && v.Inode != nil:
		n, ok := parseInode(i)
		if !ok {
			return damaged(i)
		}
		v.Inode(n)
	case (i.kind == typeInodeRef || i.kind == typeInodeExtref) && v.Name != nil:
		for dir := range names(i) {
			v.Name(i.object, dir)
		}
	case i.kind == typeExtentData && v.Extent != nil:
		e, ok := parseExtent(i.data)
		if !ok {
			return damaged(i)
		}
		v.Extent(e)
	}
	return nil
}

// ParentsOf lists the directories that an inode of the subvolume in which fd lies has names in; none if there is no such
// inode.
func ParentsOf(ctx context.Context, fd int, inode uint64) ([]uint64, error) {
	var dirs []uint64
	refs := span{from: key{inode, typeInodeRef, 0}, to: key{inode, typeInodeExtref, math.MaxUint64}, buffer: lookupBuffer}
	err := search(ctx, fd, refs, func(i item) error {
		for dir := range names(i) {
			dirs = append(dirs, dir)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up names of inode %d: %w", inode, err)
	}
	return dirs, nil
}

// NestedIn lists the subvolumes directly inside the subvolume id, by ID.
func NestedIn(ctx context.Context, fd int, id uint64) ([]Nested, error) {
	var list []Nested
	s := span{
		tree: rootTree, buffer: lookupBuffer,
		from: key{id, typeRootRef, 0}, to: key{id, typeRootRef, math.MaxUint64},
	}
	err := search(ctx, fd, s, func(i item) error {
		if i.kind != typeRootRef {
			return nil
		}
		ref, ok := parseNested(i)
		if !ok {
			return damaged(i)
		}
		list = append(list, ref)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list nested subvolumes: %w", err)
	}
	return list, nil
}

// SubvolumeByUUID finds a subvolume by its UUID, and fills in ID, UUID, ParentUUID and Created. ok is false if there is none.
func SubvolumeByUUID(ctx context.Context, fd int, u UUID) (info Subvolume, ok bool, err error) {
	var id uint64
	at := key{binary.LittleEndian.Uint64(u[:8]), typeUUID, binary.LittleEndian.Uint64(u[8:])}
	err = search(ctx, fd, span{tree: uuidTree, buffer: lookupBuffer, from: at, to: at}, func(i item) error {
		if len(i.data) < 8 {
			return damaged(i)
		}
		id = binary.LittleEndian.Uint64(i.data)
		return errStop
	})
	if err != nil || id == 0 {
		if errors.Is(err, unix.ENOENT) { // no such tree on file systems of before 3.12
			err = nil
		}
		return info, false, err
	}
	info, ok, err = subvolumeByID(ctx, fd, id)
	return info, ok && info.UUID == u, err
}

// SnapshotMade returns the transaction that made a subvolume if it is a snapshot, else 0.
func SnapshotMade(ctx context.Context, fd int, id uint64) (transaction uint64, err error) {
	info, ok, err := subvolumeByID(ctx, fd, id)
	if err != nil {
		return 0, fmt.Errorf("describe subvolume %d: %w", id, err)
	}
	if !ok || info.ParentUUID == (UUID{}) {
		return 0, nil
	}
	return info.Created, nil
}

func subvolumeByID(ctx context.Context, fd int, id uint64) (info Subvolume, ok bool, err error) {
	s := span{tree: rootTree, buffer: lookupBuffer, from: key{id, typeRoot, 0}, to: key{id, typeRoot, math.MaxUint64}}
	err = search(ctx, fd, s, func(i item) error {
		info, ok = parseRoot(i.data)
		return errStop
	})
	info.ID = id
	return info, ok, err
}
