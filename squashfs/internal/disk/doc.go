// Package disk is the byte layout of squashfs 4.0: structures, constants and
// the functions that turn one into the other.
//
// Encoders append to a slice and never fail. Decoders take the bytes that the
// caller has at hand, report [ErrShort] if these are too few, and allocate
// nothing, so that no length found in an image sizes an allocation. They check
// what one structure alone can tell (type numbers, reserved bits); whatever
// needs a second structure is the reader's business.
//
// All integers are little endian. The format is described in
// https://docs.kernel.org/filesystems/squashfs.html and, more fully, in
// https://dr-emann.github.io/squashfs/.
//
//	superblock | compressor options | data and fragment blocks |
//	inode table | directory table | fragment table | export table |
//	id table | xattr table
//
// Data blocks are described by size words ([SizeWord]); tables are made of
// metadata blocks ([MetadataHeader], [Ref]); the four lookup tables (fragment,
// export, id, xattr) are metadata blocks followed by an array of 64-bit block
// positions, and the superblock points at that array.
package disk
