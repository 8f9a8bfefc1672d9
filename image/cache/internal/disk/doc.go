// Package disk is the byte layout of the files that package cache keeps for
// indexes and segments.
//
//	0          data, then zeros up to a multiple of 4096
//	meta       what the writer said of the data
//	sums       SHA-256 of each MiB of the data, 32 bytes each
//	footer     256 bytes
//
// The footer, integers little-endian:
//
//	0    magic "hpcimgCE"
//	8    version, uint32
//	12   size of a chunk, uint32
//	16   size of the data, int64
//	24   size of meta, int64
//	32   kind, padded with zeros to 16 bytes
//	48   key, padded with zeros to 160 bytes
//	208  zeros
//	224  SHA-256 of everything between the data and here
//
// Data stands at offset 0 and ends on a page of zeros, so that a file system with shared
// extents can clone it into an image. All sizes follow from the footer, must add up to the
// size of the file, and so never size an allocation beyond it. A file has one
// encoding: whatever is parsed would be written with the same bytes.
package disk
