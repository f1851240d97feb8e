// Package tarcodec reads and writes the headers of layer tars, and says what names in them mean. It
// makes no system calls.
//
// [Reader] reads ustar, PAX, GNU (long names, base 256, sparse files of all four kinds), star and v7
// tars. It ignores PAX global headers, as Docker does. [Encoder] writes ustar, with a PAX header where
// a value does not fit.
//
// # Why not archive/tar
//
// Layers have to come back byte for byte. archive/tar hands out neither padding nor extension headers
// nor what follows the end, so a log of them needs a second parser beside it (vbatts/tar-split forks
// archive/tar for that). Reader passes everything that is not the data of a file on as it comes. It
// hands data out in blocks that the digest and the writers of files share, and so copies none of it.
// It reads an extension header in pieces and keeps no text of a sparse map, so that a header of 84 MiB
// takes 16 MiB of memory. It keeps the segments of a sparse file, which archive/tar fills with zeros.
//
// Milliseconds for a whole tar with its digest, the fastest of six runs on a busy two-core machine
// (go test -bench Read; archive/tar reads through a buffer). "many" is 60,000 files of 1 KiB with a PAX
// header each, "big" one of 256 MiB:
//
//	        archive/tar                      tarcodec
//	many    581, 30 allocations an entry     316, 9 allocations an entry
//	big     277                              265
package tarcodec
