package tarlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"

	"strata/backend/internal/layertar/tarcodec"
)

// Writer records what is needed to make a tar again from the files that were unpacked from it:
// all framing, and where each file's data is. Apply fills it. It is not safe for concurrent use.
//
// A log that is cut off, by a crash for instance, is recognised by OpenLog.
type Writer struct {
	f    *os.File
	path string

	raw   []byte // framing not yet in a record
	body  []byte // records not yet in a chunk
	last  string // path of the last file record in body
	files uint64 // file records so far
	saves int    // calls of save so far

	queue    chan message
	spare    chan []byte // buffers that the compressor has done with
	finished chan struct{}
	failure  atomic.Pointer[error] // first error of the compressor
	done     bool                  // the log is complete
	closed   bool
}

// message is a chunk on its way to the compressor.
type message struct {
	kind  byte
	data  []byte
	file  uint64 // saved: number of the file record
	start bool   // saved: the first chunk of the file
	foot  footer // index: what to end the log with
}

// saved says where the data of a deleted file begins.
type saved struct {
	file   uint64 // number of its record, from 0
	offset int64  // of the first chunk
	length int64  // bytes once decompressed
}

// Create makes the log at path, replacing what is there. The caller ends with Close or Abort.
func Create(path string) (*Writer, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create tar log: %w", err)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(chunkGoal), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create tar log %s: %w", path, err), f.Close())
	}
	w := &Writer{f: f, path: path, queue: make(chan message, 1), spare: make(chan []byte, 4), finished: make(chan struct{})}
	go w.compress(enc)
	return w, nil
}

// Framing adds bytes of the tar itself.
func (w *Writer) Framing(p []byte) {
	for len(p) > 0 {
		n := min(len(p), rawGoal-len(w.raw))
		w.raw = append(w.raw, p[:n]...)
		p = p[n:]
		if len(w.raw) == rawGoal {
			w.flushRaw()
		}
	}
}

func (w *Writer) flushRaw() {
	if len(w.raw) == 0 {
		return
	}
	w.body = append(w.body, recordRaw)
	w.body = binary.AppendUvarint(w.body, uint64(len(w.raw)))
	w.body = append(w.body, w.raw...)
	w.raw = w.raw[:0]
	w.flushBody(chunkGoal)
}

// File says that the data of the file at path, a clean relative path, comes next in the tar: all of
// its size bytes, or segments. It returns the record's number for save.
func (w *Writer) File(path string, size int64, parts []tarcodec.Segment, sparse bool) uint64 {
	w.flushRaw()
	kind := byte(recordFile)
	if sparse {
		kind = recordParts
	}
	w.body = append(w.body, kind)
	shared := sharedPrefix(w.last, path)
	w.body = binary.AppendUvarint(w.body, uint64(shared))
	w.body = binary.AppendUvarint(w.body, uint64(len(path)-shared))
	w.body = append(w.body, path[shared:]...)
	w.body = binary.AppendUvarint(w.body, uint64(size))
	w.last = path
	if sparse {
		w.body = binary.AppendUvarint(w.body, uint64(len(parts)))
		var end int64
		for _, s := range parts {
			w.body = binary.AppendUvarint(w.body, uint64(s.Offset-end))
			w.body = binary.AppendUvarint(w.body, uint64(s.Length))
			end = s.Offset + s.Length
		}
	}
	w.flushBody(chunkGoal)
	w.files++
	return w.files - 1
}

func sharedPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// flushBody closes the chunk of records if it holds at least goal bytes.
func (w *Writer) flushBody(goal int) {
	if len(w.body) == 0 || len(w.body) < goal {
		return
	}
	w.queue <- message{kind: chunkRecords, data: w.body}
	w.body, w.last = w.buffer(), ""
}

func (w *Writer) buffer() []byte {
	select {
	case b := <-w.spare:
		return b[:0]
	default:
		return make([]byte, 0, chunkGoal+2*rawGoal)
	}
}

// Save keeps the data of a file that is about to be deleted: what file was told would be found
// there, read from r.
func (w *Writer) Save(file uint64, r io.Reader) error {
	if w.saves++; w.saves > maxSaved {
		return fmt.Errorf("tar replaces more than %d of its own files: %w", maxSaved, errdefs.ErrInvalidArgument)
	}
	for start := true; ; start = false {
		b := w.buffer()[:chunkGoal]
		n, err := io.ReadFull(r, b)
		if n > 0 || start {
			w.queue <- message{kind: chunkSaved, data: b[:n], file: file, start: start}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return w.Err()
		}
		if err != nil {
			return err
		}
	}
}

// Err returns the first error of the goroutine that writes.
func (w *Writer) Err() error {
	if p := w.failure.Load(); p != nil {
		return fmt.Errorf("write tar log %s: %w", w.path, *p)
	}
	return nil
}

// Finish completes the log of a tar with this length and digest.
func (w *Writer) Finish(length int64, sum [32]byte) error {
	if w.done || w.closed {
		return fmt.Errorf("tar log %s is used a second time: %w", w.path, errdefs.ErrFailedPrecondition)
	}
	w.flushRaw()
	w.flushBody(0)
	w.queue <- message{kind: chunkIndex, foot: footer{length: length, sum: sum}}
	w.stop()
	if err := w.Err(); err != nil {
		return err
	}
	w.done = true
	return nil
}

// stop ends the compressor.
func (w *Writer) stop() {
	if w.queue != nil {
		close(w.queue)
		<-w.finished
		w.queue = nil
	}
}

// Sync makes the finished log durable; the directory entry is the caller's concern.
func (w *Writer) Sync() error {
	if !w.done {
		return fmt.Errorf("sync tar log %s: no tar was applied: %w", w.path, errdefs.ErrFailedPrecondition)
	}
	if err := w.f.Sync(); err != nil {
		return fmt.Errorf("sync tar log: %w", err)
	}
	return nil
}

// Close closes the log. If no tar was applied successfully there is nothing to keep: it is removed
// and an ErrFailedPrecondition returned. Further calls do nothing.
func (w *Writer) Close() error {
	if w.closed {
		return nil
	}
	if !w.done {
		return errors.Join(fmt.Errorf("close tar log %s: no tar was applied: %w", w.path, errdefs.ErrFailedPrecondition), w.Abort())
	}
	w.closed = true
	if err := w.f.Close(); err != nil {
		return fmt.Errorf("close tar log: %w", err)
	}
	return nil
}

// Abort closes and removes the log. After Close it does nothing.
func (w *Writer) Abort() error {
	if w.closed {
		return nil
	}
	w.closed = true
	w.stop()
	if err := errors.Join(w.f.Close(), os.Remove(w.path)); err != nil {
		return fmt.Errorf("remove tar log: %w", err)
	}
	return nil
}

// compress writes the file, in a goroutine of its own.
func (w *Writer) compress(enc *zstd.Encoder) {
	defer close(w.finished)
	c := &compressor{f: w.f, enc: enc}
	err := c.write([]byte(logMagic))
	for m := range w.queue {
		if err == nil {
			err = c.message(m)
		}
		if err != nil {
			w.failure.CompareAndSwap(nil, &err)
		}
		select {
		case w.spare <- m.data:
		default:
		}
	}
	if err := enc.Close(); err != nil {
		w.failure.CompareAndSwap(nil, &err)
	}
}

// compressor is the part of a LogWriter that touches the file.
type compressor struct {
	f      *os.File
	enc    *zstd.Encoder
	offset int64
	buf    []byte
	index  []saved
}

func (c *compressor) write(b []byte) error {
	n, err := c.f.Write(b)
	c.offset += int64(n)
	return err
}

func (c *compressor) message(m message) error {
	switch m.kind {
	case chunkSaved:
		if m.start {
			c.index = append(c.index, saved{file: m.file, offset: c.offset})
		}
		c.index[len(c.index)-1].length += int64(len(m.data))
	case chunkIndex:
		return c.end(m.foot)
	}
	return c.chunk(m.kind, m.data)
}

func (c *compressor) chunk(kind byte, data []byte) error {
	c.buf = c.enc.EncodeAll(data, append(c.buf[:0], make([]byte, chunkHead)...))
	stored := c.buf[chunkHead:]
	head := chunk{kind, uint32(len(stored)), uint32(len(data)), crc32.Checksum(stored, castagnoli)}.encode()
	copy(c.buf, head[:])
	return c.write(c.buf)
}

// end writes the index, in as many chunks as it takes, and the footer.
func (c *compressor) end(foot footer) error {
	foot.index = c.offset
	var b bytes.Buffer
	for i := range c.index {
		s := &c.index[i]
		b.Write(binary.AppendUvarint(nil, s.file))
		b.Write(binary.AppendUvarint(nil, uint64(s.offset)))
		b.Write(binary.AppendUvarint(nil, uint64(s.length)))
	}
	for first := true; first || b.Len() > 0; first = false {
		if err := c.chunk(chunkIndex, b.Next(chunkGoal)); err != nil {
			return err
		}
	}
	return c.write(foot.encode())
}
