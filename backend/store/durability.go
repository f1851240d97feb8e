package store

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"strata/backend"
	"strata/backend/internal/layertar/dirsink"
	"strata/backend/internal/layertar/tarlog"
	"strata/backend/internal/tree"
	"strata/backend/store/records"
)

// durability alone decides what is on the disk before an operation goes on, and before it returns. Whoever calls a method waits
// for it.
//
// Where records and data share a journal that is written in order (ext4, xfs), the sync of one file makes durable whatever
// happened to names before. Elsewhere each step is synced in its turn. With sync=none nothing is, and the kernel writes
// when it likes.
//
//	operation                   ordered journal           step by step               sync=none
//
//	intent of a new layer       -                         record                     -
//	new layer, names only       (its record's sync)       Syncer.SyncCreated         -
//	new layer with content      content                   content                    -
//	new layer is ready          record                    record, names              -
//	draft is ready              -                         (there are no drafts)      -
//	filling begins              -                         names                      -
//	unpacked, exact diffs       log, names in logs/       log, names in logs/        -
//	unpacked                    files, as they are unpacked; content if the backend has no directory for that
//	filled                      record                    record, names              -
//	sealed, changed             record                    record, names              -
//	committed                   content, which has the    content, record, names     -
//	                            record with it
//	removed                     nothing; before data is deleted, names; before the record is, the deletion
//
// "content" is ContentSyncer.SyncContent, else a sync of the file systems on which the layer's Place or the backend's home
// lies. It is left out for a commit if nothing can have changed since it was last done (persistence).
type durability struct {
	lazy    atomic.Bool // SyncNone
	journal bool        // records and data share a journal that is written in order

	records records.Dir
	logs    string // directory
	home    string // of the backend
	able    *abilities
}

func (d *durability) set(m SyncMode) { d.lazy.Store(m == SyncNone) }

func (d *durability) mode() SyncMode {
	if d.lazy.Load() {
		return SyncNone
	}
	return SyncLayer
}

func (d *durability) durable() bool { return !d.lazy.Load() }

// stepwise says that the steps of an operation have to be synced one by one: no journal keeps their order.
func (d *durability) stepwise() bool { return d.durable() && !d.journal }

// intent is how the record of a layer that is about to be made is synced.
func (d *durability) intent() records.Syncer {
	if !d.stepwise() {
		return nil
	}
	return records.SyncFile
}

// record is how records are synced.
func (d *durability) record() records.Syncer {
	if !d.durable() {
		return nil
	}
	return records.SyncFile
}

// step makes the names in layers/ durable before an operation goes on, where it has to.
func (d *durability) step() error {
	if !d.stepwise() {
		return nil
	}
	return d.names()
}

// names makes the names in layers/ durable.
func (d *durability) names() error {
	if !d.durable() {
		return nil
	}
	return d.records.Sync()
}

// entries makes the names in another directory of the store's durable.
func (d *durability) entries(dir string) error {
	if !d.durable() {
		return nil
	}
	return tree.Sync(dir)
}

// namesOnly tells that a layer that was just created consists of names only: no data has to be written for it.
func (d *durability) namesOnly(l backend.Layer) bool {
	mapped := l.IDMap != nil // files may have been copied, or changed through a mount
	if len(l.Parents) > 0 {
		mapped = !l.IDMap.Equal(l.Parents[0].IDMap)
	}
	return d.able.syncer != nil && !mapped
}

// expendable tells that a new layer can be a draft: the later sync of its record also persists its creation.
func (d *durability) expendable(l backend.Layer) bool { return d.journal && d.namesOnly(l) }

// created makes a layer durable that shows what its parent shows. If it consists of names only,
// the sync of its record in the same journal is enough.
func (d *durability) created(ctx context.Context, l backend.Layer) error {
	switch {
	case !d.namesOnly(l):
		return d.content(ctx, l)
	case d.stepwise():
		return d.able.syncer.SyncCreated(ctx, l)
	}
	return nil
}

// unpacks tells that unpacking into a directory has to make files durable as it goes.
func (d *durability) unpacks() bool { return d.durable() && d.able.content == nil }

// unpacked closes the log, nil for none, and makes durable what unpacking has not.
func (d *durability) unpacked(ctx context.Context, l backend.Layer, log *tarlog.Writer) error {
	if log != nil {
		if d.durable() {
			var group errgroup.Group
			group.Go(log.Sync)
			group.Go(func() error { return tree.Sync(d.logs) })
			if err := group.Wait(); err != nil {
				return err
			}
		}
		if err := log.Close(); err != nil {
			return err
		}
	}
	if d.able.content != nil || d.able.placer != nil && d.able.sinker == nil {
		return nil // sealing will do it, or unpacking has done it
	}
	return d.content(ctx, l)
}

// content makes everything in a layer durable.
func (d *durability) content(ctx context.Context, l backend.Layer) error {
	if !d.durable() {
		return nil
	}
	switch {
	case d.able.content != nil:
		return d.able.content.SyncContent(ctx, l)
	case d.able.placer == nil:
		return dirsink.Flush(ctx, d.home)
	}
	p, err := d.able.placer.Place(ctx, l)
	if err != nil {
		return err
	}
	return dirsink.Flush(ctx, p.Dir)
}

// committed is how the record of a committed layer is synced, and with it the content unless that is on the disk already or
// sealing puts it there.
func (d *durability) committed(ctx context.Context, l backend.Layer, p persistence) records.Syncer {
	if p.settled || d.able.content != nil || !d.durable() {
		return d.record()
	}
	return func(path string) error {
		if err := d.content(ctx, l); err != nil || d.journal { // then it was the record's file system, too
			return err
		}
		return records.SyncFile(path)
	}
}

// deleted makes it durable that data is gone from the backend's home.
func (d *durability) deleted() error {
	if !d.durable() {
		return nil
	}
	return tree.SyncDeleted(d.home)
}

// persistence says whether a layer's content is on the disk and no writable mounts were handed out since.
type persistence struct{ settled bool }

// exposed notes that somebody may write to the layer.
func (p *persistence) exposed() { p.settled = false }

// unpacked notes that durability.unpacked was called for all that the layer holds.
func (p *persistence) unpacked(d *durability) { p.settled = d.durable() }

// rebased notes that names and attributes have changed: in a journal the sync of the record is theirs, too.
func (p *persistence) rebased(d *durability) { p.settled = p.settled && !d.stepwise() }
