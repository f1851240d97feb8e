package tarlog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/containerd/errdefs"
)

// The layout of a log is in the package comment; this file has its numbers.
const (
	logMagic   = "strata-tarlog\x00\x00\x01" // the last byte is the version
	logEnd     = "tarlogend\x00\x00\x00\x00\x00\x00\x01"
	headerLen  = len(logMagic)
	chunkHead  = 16
	footerLen  = 72
	chunkGoal  = 512 << 10 // a chunk is closed once it holds this much
	chunkLimit = 4 << 20   // no chunk holds more
	rawGoal    = 64 << 10  // framing is gathered up to this much
	MaxLogged  = 1 << 16   // segments of one sparse file in a record; the data of a file with more is in the log itself
	maxSaved   = 1 << 20   // deleted files in one log; their index is kept in memory
)

// Kinds of chunks.
const (
	chunkRecords = 1 // records, in order
	chunkSaved   = 2 // data of a file that the tar itself deleted again
	chunkIndex   = 3 // where the saved data is; the last chunk
)

// Kinds of records.
const (
	recordRaw   = 1 // bytes of the tar
	recordFile  = 2 // all of a file
	recordParts = 3 // segments of a file
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// chunk is the head of a chunk.
type chunk struct {
	kind   byte
	stored uint32 // bytes that follow, zstd
	length uint32 // bytes once decompressed
	sum    uint32 // CRC-32C of the bytes that follow
}

func (c chunk) encode() [chunkHead]byte {
	var b [chunkHead]byte
	b[0] = c.kind
	binary.LittleEndian.PutUint32(b[4:], c.stored)
	binary.LittleEndian.PutUint32(b[8:], c.length)
	binary.LittleEndian.PutUint32(b[12:], c.sum)
	return b
}

func decodeChunk(b [chunkHead]byte) (chunk, error) {
	c := chunk{
		kind:   b[0],
		stored: binary.LittleEndian.Uint32(b[4:]),
		length: binary.LittleEndian.Uint32(b[8:]),
		sum:    binary.LittleEndian.Uint32(b[12:]),
	}
	if c.kind < chunkRecords || c.kind > chunkIndex || c.stored > 2*chunkLimit || c.length > chunkLimit {
		return c, fmt.Errorf("bad chunk head %x: %w", b, errdefs.ErrDataLoss)
	}
	return c, nil
}

// footer closes a log that is complete.
type footer struct {
	index  int64 // where the first index chunk starts
	length int64 // of the tar, bytes
	sum    [32]byte
}

func (f footer) encode() []byte {
	b := make([]byte, 0, footerLen)
	b = binary.LittleEndian.AppendUint64(b, uint64(f.index))
	b = binary.LittleEndian.AppendUint64(b, uint64(f.length))
	b = append(b, f.sum[:]...)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return append(b, logEnd...)
}

func decodeFooter(b []byte) (footer, error) {
	body, sum, end := b[:52], b[52:56], b[56:]
	if string(end) != logEnd {
		return footer{}, fmt.Errorf("no end mark: the log is cut off or not a log of this version: %w", errdefs.ErrDataLoss)
	}
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(sum) {
		return footer{}, fmt.Errorf("bad footer checksum: %w", errdefs.ErrDataLoss)
	}
	f := footer{
		index:  int64(binary.LittleEndian.Uint64(b)),
		length: int64(binary.LittleEndian.Uint64(b[8:])),
		sum:    [32]byte(b[16:48]),
	}
	if f.index < int64(headerLen) || f.length < 0 {
		return footer{}, fmt.Errorf("bad footer: %w", errdefs.ErrDataLoss)
	}
	return f, nil
}
