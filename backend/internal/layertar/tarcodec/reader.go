package tarcodec

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
)

// Reader reads a tar entry by entry. What is not taken of an entry's data counts as framing, and
// all framing is passed to raw in the order of the stream: together with the data that was taken
// it makes up the stream.
type Reader struct {
	src     *source
	raw     func([]byte) // may be nil; must not keep the bytes
	header  rawHeader
	stored  int64 // data of the entry not read yet, bytes
	padding int64 // zeros after it
	scratch []byte
}

// NewReader reads the tar in. raw, which may be nil, gets the framing and must not keep the bytes. The
// caller ends with close. The context's end ends reading.
func NewReader(ctx context.Context, in io.Reader, raw func([]byte)) *Reader {
	return &Reader{src: newSource(ctx, in), raw: raw}
}

// Close returns the digest of all that was read of the stream.
func (r *Reader) Close() [sha256.Size]byte { return r.src.close() }

// Total is how much was read of the stream, bytes.
func (r *Reader) Total() int64 { return r.src.total }

// Left is how much stored data of the entry was not taken yet, bytes.
func (r *Reader) Left() int64 { return r.stored }

// Next returns the entry after the current one, whose remaining data is skipped, or io.EOF at the
// end of the archive. What follows the end is left to drain.
func (r *Reader) Next() (*Entry, error) {
	if err := r.skip(); err != nil {
		return nil, err
	}
	var x extension
	for extended := false; ; extended = true {
		end, err := r.readHeader()
		if err != nil {
			return nil, err
		}
		if end && extended {
			return nil, fmt.Errorf("tar ends after an extension header: %w", io.ErrUnexpectedEOF)
		}
		if end {
			return nil, io.EOF
		}
		more, err := r.extend(&x)
		if err != nil {
			return nil, err
		}
		if !more {
			return r.entry(&x)
		}
	}
}

// readHeader reads a header block and reports whether it ends the archive: two blocks of zeros,
// one and the end of the stream, or the end of the stream.
func (r *Reader) readHeader() (end bool, err error) {
	if end, err = r.readBlock(); end || err != nil {
		return end, err
	}
	if r.header != (rawHeader{}) {
		if err := r.header.verify(); err != nil {
			return false, fmt.Errorf("tar at byte %d: %w", r.offset()-BlockSize, err)
		}
		return false, nil
	}
	if end, err = r.readBlock(); end || err != nil {
		return end, err
	}
	if r.header != (rawHeader{}) {
		return false, fmt.Errorf("tar goes on after a block of zeros at byte %d: %w", r.offset()-2*BlockSize, errdefs.ErrInvalidArgument)
	}
	return true, nil
}

func (r *Reader) readBlock() (end bool, err error) {
	n, err := r.src.read(r.header[:])
	r.emit(r.header[:n])
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return false, fmt.Errorf("tar ends within a header at byte %d: %w", r.offset(), err)
	}
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// offset is where in the stream the reader stands.
func (r *Reader) offset() int64 { return r.src.total - int64(r.src.end-r.src.pos) }

func (r *Reader) emit(p []byte) {
	if r.raw != nil && len(p) > 0 {
		r.raw(p)
	}
}

// extend works an extension header into x and reports whether it was one. PAX global headers are
// checked for size and left at that, as Docker does: git puts a comment there.
func (r *Reader) extend(x *extension) (bool, error) {
	kind := r.header[typeOffset]
	switch kind {
	case 'x', 'g', 'L', 'K':
	default:
		return false, nil
	}
	size, err := number(r.header.bytes(fieldSize))
	if err != nil {
		return false, fmt.Errorf("size of extension header %q: %w", kind, err)
	}
	limit := int64(MaxSpecial)
	if kind == 'x' {
		limit = maxPAX
	}
	if size < 0 || size > limit {
		return false, fmt.Errorf("extension header %q is %d bytes long, at most %d are allowed: %w", kind, size, limit, errdefs.ErrInvalidArgument)
	}
	if kind == 'x' {
		return true, r.pax(newPAX(x), size)
	}
	data, err := r.special(size)
	if err != nil {
		return false, fmt.Errorf("extension header %q: %w", kind, err)
	}
	switch kind {
	case 'L':
		x.longName = text(data)
	case 'K':
		x.longLink = text(data)
	}
	return true, nil
}

// pax reads a PAX header piece by piece.
func (r *Reader) pax(p *paxRecords, size int64) error {
	for size > 0 {
		n := min(size, paxPiece)
		data, err := r.special(n)
		if err == nil {
			err = p.add(data)
		}
		if err != nil {
			return fmt.Errorf("extension header 'x': %w", err)
		}
		size -= n
	}
	return p.end()
}

// special reads framing of the given size and the padding after it. The bytes are good until the
// next call.
func (r *Reader) special(size int64) ([]byte, error) {
	padded := int(size + Padding(size))
	if cap(r.scratch) < padded {
		r.scratch = make([]byte, padded)
	}
	data := r.scratch[:padded]
	n, err := r.src.read(data)
	r.emit(data[:n])
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && int64(n) < size {
		return nil, fmt.Errorf("tar ends within it: %w", io.ErrUnexpectedEOF)
	}
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	return data[:size], nil
}

// Padding is how many zeros follow data of a size, bytes.
func Padding(size int64) int64 { return -size & (BlockSize - 1) }

// entry completes the entry whose header block was read last.
func (r *Reader) entry(x *extension) (*Entry, error) {
	e := &Entry{}
	if err := r.header.decode(e); err != nil {
		return nil, fmt.Errorf("tar header of %q: %w", e.Name, err)
	}
	if err := x.apply(e); err != nil {
		return nil, fmt.Errorf("tar entry %q: %w", e.Name, err)
	}
	old := e.Kind == 'S'
	switch e.Kind {
	case 0: // v7
		e.Kind = KindFile
		if strings.HasSuffix(e.Name, "/") {
			e.Kind = KindDir
		}
	case 'S', '7':
		e.Kind = KindFile
	case KindFile, KindLink, KindSymlink, KindChar, KindBlock, KindDir, KindFifo:
	default:
		return nil, fmt.Errorf("tar entry %q has the unknown type %q: %w", e.Name, e.Kind, errdefs.ErrNotImplemented)
	}
	if e.Kind != KindFile {
		e.Size = 0 // some writers put a size; there is no data
	}
	if e.Size < 0 {
		return nil, fmt.Errorf("tar entry %q has the size %d: %w", e.Name, e.Size, errdefs.ErrInvalidArgument)
	}
	r.stored, r.padding = e.Size, Padding(e.Size)
	if err := r.sparse(e, &x.sparse, old); err != nil {
		return nil, fmt.Errorf("tar entry %q: %w", e.Name, err)
	}
	return e, nil
}

// sparse reads the sparse map, if there is one.
func (r *Reader) sparse(e *Entry, p *paxSparse, old bool) error {
	v, err := p.version()
	if err != nil {
		return err
	}
	if old {
		v = mapInBlock
	}
	if v == notSparse {
		return nil
	}
	if e.Kind != KindFile {
		return fmt.Errorf("sparse map for an entry of type %q: %w", e.Kind, errdefs.ErrInvalidArgument)
	}
	e.Sparse = true
	switch v {
	case notSparse:
	case mapInBlock:
		err = r.blockMap(e)
	case mapInPAX:
		e.Segments, err = p.segments()
	case mapInData:
		e.Segments, err = r.dataMap()
	}
	if err != nil {
		return err
	}
	if v != mapInBlock {
		if err := p.apply(e); err != nil {
			return err
		}
	}
	return CheckSegments(e.Segments, e.Size, r.stored)
}

// blockMap reads the map of the old GNU format: four segments in the header and 21 in each block
// after it.
func (r *Reader) blockMap(e *Entry) error {
	if r.header.format() != formatGNU {
		return fmt.Errorf("sparse entry is not in GNU format: %w", errdefs.ErrInvalidArgument)
	}
	var err error
	if e.Size, err = number(r.header.bytes(fieldGNUReal)); err != nil {
		return fmt.Errorf("real size: %w", err)
	}
	var m sparseMap
	if err := m.block(r.header.bytes(fieldGNUSparse)); err != nil {
		return err
	}
	for more := r.header[gnuExtendedOffset] != 0; more; {
		b, err := r.special(BlockSize)
		if err != nil {
			return fmt.Errorf("sparse map: %w", err)
		}
		if err := m.block(b[:504]); err != nil {
			return err
		}
		more = b[504] != 0
	}
	e.Segments = m.segments
	return nil
}

// dataMap reads the map of version 1.0: decimal numbers, one a line, padded to a block, the first
// being the number of pairs.
func (r *Reader) dataMap() ([]Segment, error) {
	var m sparseMap
	want := -1 // not read yet
	for want < 0 || len(m.segments) < want {
		if r.stored < BlockSize {
			return nil, fmt.Errorf("sparse map does not end: %w", errdefs.ErrInvalidArgument)
		}
		b, err := r.special(BlockSize)
		if err != nil {
			return nil, fmt.Errorf("sparse map: %w", err)
		}
		r.stored -= BlockSize
		if want, err = m.lines(b, want); err != nil {
			return nil, err
		}
	}
	return m.segments, nil
}

// Take returns the next bytes of the entry's data, at most limit of them, or io.EOF after the
// last. The caller releases the block.
func (r *Reader) Take(limit int64) (Piece, error) {
	if r.stored == 0 {
		return Piece{}, io.EOF
	}
	p, err := r.src.take(min(limit, r.stored))
	if err != nil {
		return Piece{}, torn(err)
	}
	r.stored -= int64(len(p.Data))
	return p, nil
}

// torn turns the end of the stream into an error.
func torn(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("tar ends within the data of a file: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// skip passes what is left of the entry to raw. Only the padding may be missing at the end.
func (r *Reader) skip() error {
	for r.stored > 0 {
		p, err := r.Take(r.stored)
		if err != nil {
			return err
		}
		r.emit(p.Data)
		p.Release()
	}
	for r.padding > 0 {
		p, err := r.src.take(r.padding)
		if errors.Is(err, io.EOF) {
			r.padding = 0
			return nil
		}
		if err != nil {
			return err
		}
		r.padding -= int64(len(p.Data))
		r.emit(p.Data)
		p.Release()
	}
	return nil
}

// Drain passes everything up to the end of the stream to raw.
func (r *Reader) Drain() error {
	for {
		p, err := r.src.take(BlockLen)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		r.emit(p.Data)
		p.Release()
	}
}
