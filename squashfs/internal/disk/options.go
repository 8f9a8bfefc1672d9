package disk

import "encoding/binary"

// Compressor options follow the superblock in one uncompressed metadata block
// if FlagOptions is set.

// LZ4 options: without them kernels refuse an image.
const (
	LZ4Version = 1
	LZ4HC      = 1 // flag: made by the high-compression encoder
)

// AppendLZ4Options appends the options block of an lz4 image, header included.
func AppendLZ4Options(dst []byte, flags uint32) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint16(dst, MetadataHeader(8, true))
	dst = le.AppendUint32(dst, LZ4Version)
	return le.AppendUint32(dst, flags)
}
