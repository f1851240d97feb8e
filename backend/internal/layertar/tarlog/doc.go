// Package tarlog keeps what of a tar is not in the files that were unpacked from it.
//
// [Writer] records everything in the tar that is not file data, and which file's data goes where;
// [Log.Replay] makes the tar again. Data of files that the same tar deletes or replaces goes into the
// log at that moment.
//
// # Format
//
// Integers are little-endian; varints are those of encoding/binary.
//
//	header    16 bytes  "strata-tarlog", 0, 0, version 1
//	chunks              of records and of saved data, in any order
//	chunks              of the index, at least one
//	footer    72 bytes
//
// A log without its footer is not complete, one with the footer was completed; so a torn write is
// seen when it is opened. A chunk is
//
//	 0  1   kind: 1 records, 2 saved data, 3 index
//	 1  3   0
//	 4  4   bytes that follow the head, one zstd frame
//	 8  4   bytes once decompressed, at most 4 MiB
//	12  4   CRC-32C of the bytes that follow
//
// and the footer
//
//	 0  8   offset of the first index chunk
//	 8  8   length of the tar
//	16 32   SHA-256 of the tar
//	48  4   0
//	52  4   CRC-32C of the 52 bytes before
//	56 16   "tarlogend", 0, 0, 0, 0, 0, 0, 1
//
// Records lie whole in a chunk. Together, in order, they make the tar:
//
//	1  varint n, n bytes                       these bytes
//	2  path, varint size                       all of a file
//	3  path, varint size, varint n, n times    segments of a sparse file of that size, at most
//	   varint gap, varint length               65,536: the hole before each, and its length
//
// A path is relative to the layer, without symlinks, and shares its beginning with that of the
// file record before it in the chunk: varint bytes shared, varint bytes that follow, these bytes.
// The index lists files whose data is in the log itself: varint number of the record among all
// file records, from 0, varint offset of the first chunk, varint length; the data takes as many
// chunks on end as it needs. The index's chunks are one stream.
package tarlog
