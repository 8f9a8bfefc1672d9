package disk

import "errors"

// ErrShort reports that a structure needs more bytes than there are.
var ErrShort = errors.New("truncated")

// Sizes and limits of the format.
const (
	// MetadataSize is the number of uncompressed bytes in every metadata
	// block but the last of a table.
	MetadataSize = 8192
	// MinBlockSize and MaxBlockSize bound the data block size, a power of 2.
	MinBlockSize = 4 << 10
	MaxBlockSize = 1 << 20
	// MaxNameLen is the longest name that Linux accepts, though the format
	// can store one byte more.
	MaxNameLen = 255
	// MaxTargetLen is the longest symbolic link target that all readers accept.
	MaxTargetLen = 4095
	// MaxIDs is the greatest number of entries of the id table.
	MaxIDs = 1<<16 - 1
	// PadSize is the unit to which an image's size is padded: loop devices
	// round down to 512, and page-sized reads must not pass the end.
	PadSize = 4096
)

// Values that stand for "none".
const (
	// NoTable is the start of a table that is absent.
	NoTable = ^uint64(0)
	// NoFragment is the fragment index of a file without one.
	NoFragment = ^uint32(0)
	// NoXattr is the xattr index of an inode without extended attributes.
	NoXattr = ^uint32(0)
)

// SizeWord describes a data or fragment block: its stored length and whether
// it is stored as it is. Zero in a block list is a block of zeros that takes
// no space.
type SizeWord = uint32

const (
	sizeWordRaw  = 1 << 24
	sizeWordMask = sizeWordRaw - 1
)

// EncodeSize returns the size word of a block of n stored bytes.
func EncodeSize(n int, raw bool) SizeWord {
	w := SizeWord(n) & sizeWordMask
	if raw {
		w |= sizeWordRaw
	}
	return w
}

// StoredSize returns the number of bytes that a block takes on disk.
func StoredSize(w SizeWord) int { return int(w & sizeWordMask) }

// StoredRaw reports whether a block is stored uncompressed.
func StoredRaw(w SizeWord) bool { return w&sizeWordRaw != 0 }

// ValidSize reports whether w has no unknown bits.
func ValidSize(w SizeWord) bool { return w&^(sizeWordRaw|sizeWordMask) == 0 }

// MetadataHeaderSize is the size of the header before each metadata block.
const MetadataHeaderSize = 2

const metadataRaw = 1 << 15

// MetadataHeader returns the header of a metadata block of n stored bytes.
func MetadataHeader(n int, raw bool) uint16 {
	h := uint16(n)
	if raw {
		h |= metadataRaw
	}
	return h
}

// DecodeMetadataHeader returns the stored size that a metadata block header
// names, and whether the block is uncompressed. A size of 0 or above
// [MetadataSize] is the caller's to refuse.
func DecodeMetadataHeader(h uint16) (n int, raw bool) {
	return int(h &^ metadataRaw), h&metadataRaw != 0
}

// Ref locates a record in a table of metadata blocks: the position of the
// block's header relative to the table's start, shifted left by 16, plus the
// offset within the uncompressed block.
type Ref uint64

// NewRef returns the reference to offset in the metadata block at block.
func NewRef(block uint64, offset uint16) Ref { return Ref(block<<16 | uint64(offset)) }

// Block returns the position of the metadata block relative to its table.
func (r Ref) Block() uint64 { return uint64(r) >> 16 }

// Offset returns the offset within the uncompressed metadata block.
func (r Ref) Offset() int { return int(r & 0xffff) }

// BlockCount returns the number of data blocks of a file, the fragment not
// counted.
func BlockCount(size uint64, blockLog uint16, hasFragment bool) uint64 {
	n := size >> blockLog
	if !hasFragment && size&(1<<blockLog-1) != 0 {
		n++
	}
	return n
}
