package unpack

import (
	"io"

	"strata/backend/internal/layertar/tarcodec"
	"strata/backend/internal/layertar/tarlog"
)

// maxKept bounds the segments of sparse files that are kept in case the files are deleted again.
const maxKept = 4 * tarlog.MaxLogged

// files records in the log where the data of files is. Without a log it does nothing.
type files struct {
	log      *tarlog.Writer
	last     uint64                        // number of the last record, from 1
	sparse   map[uint64][]tarcodec.Segment // of sparse files in the log
	segments int                           // in all of those
}

// way is how the log keeps the data of a file.
type way struct {
	record uint64       // the file has it; 0 is none
	tee    func([]byte) // the log itself keeps it; nil otherwise
}

// framing returns what takes everything that is no data.
func (f *files) framing() func([]byte) {
	if f.log == nil {
		return nil
	}
	return f.log.Framing
}

// err returns what the log failed with.
func (f *files) err() error {
	if f.log == nil {
		return nil
	}
	return f.log.Err()
}

// plan tells how the data of the file that e is about to become is kept.
func (f *files) plan(e *tarcodec.Entry, stored int64) way {
	if e.Kind != tarcodec.KindFile || stored == 0 || f.log == nil {
		return way{}
	}
	if e.Sparse && (len(e.Segments) > tarlog.MaxLogged || len(e.Segments) > maxKept-f.segments) {
		return way{tee: f.log.Framing}
	}
	return way{record: f.last + 1}
}

// add records that the data of e, which comes next in the tar, is in a file.
func (f *files) add(at string, e *tarcodec.Entry) {
	f.log.File(at, e.Size, e.Segments, e.Sparse)
	f.last++
	if !e.Sparse {
		return
	}
	if f.sparse == nil {
		f.sparse = map[uint64][]tarcodec.Segment{}
	}
	f.sparse[f.last] = e.Segments
	f.segments += len(e.Segments)
}

// save copies the data of a file that the log refers to into the log.
func (f *files) save(record uint64, content io.ReaderAt) error {
	if record == 0 || f.log == nil {
		return nil
	}
	list, sparse := f.sparse[record]
	if !sparse {
		return f.log.Save(record-1, io.NewSectionReader(content, 0, maxSize))
	}
	parts := make([]io.Reader, len(list))
	for i, s := range list {
		parts[i] = io.NewSectionReader(content, s.Offset, s.Length)
	}
	if err := f.log.Save(record-1, io.MultiReader(parts...)); err != nil {
		return err
	}
	delete(f.sparse, record)
	f.segments -= len(list)
	return nil
}

// maxSize is more than any file has.
const maxSize = 1<<63 - 1
