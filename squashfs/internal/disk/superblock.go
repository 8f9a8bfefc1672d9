package disk

import (
	"encoding/binary"
	"fmt"
)

// Magic starts every image.
const Magic = 0x73717368

// SuperblockSize is the size of the superblock, which is the first thing in
// an image.
const SuperblockSize = 96

// Versions of the format that this package describes.
const (
	Major = 4
	Minor = 0
)

// Compressor ids.
const (
	CompressorGzip = 1 + iota
	CompressorLZMA
	CompressorLZO
	CompressorXZ
	CompressorLZ4
	CompressorZstd
)

// Superblock flags. Kernels act on FlagOptions alone; the others inform.
// FlagCheck comes from older formats, must not be set, and confuses unsquashfs
// if it is.
const (
	FlagRawInodes       = 0x0001
	FlagRawData         = 0x0002
	FlagCheck           = 0x0004
	FlagRawFragments    = 0x0008
	FlagNoFragments     = 0x0010
	FlagAlwaysFragments = 0x0020
	FlagDuplicates      = 0x0040
	FlagExport          = 0x0080
	FlagRawXattrs       = 0x0100
	FlagNoXattrs        = 0x0200
	FlagOptions         = 0x0400
	FlagRawIDs          = 0x0800
)

// Superblock is the header of an image. Table starts are absolute; [NoTable]
// where the table is absent.
type Superblock struct {
	Inodes      uint32
	ModTime     uint32
	BlockSize   uint32
	Fragments   uint32
	Compressor  uint16
	BlockLog    uint16
	Flags       uint16
	IDs         uint16
	Root        Ref
	BytesUsed   uint64
	IDTable     uint64
	XattrTable  uint64
	InodeTable  uint64
	DirTable    uint64
	FragTable   uint64
	ExportTable uint64
}

// AppendSuperblock appends the 96 bytes of s to dst.
func AppendSuperblock(dst []byte, s *Superblock) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, Magic)
	dst = le.AppendUint32(dst, s.Inodes)
	dst = le.AppendUint32(dst, s.ModTime)
	dst = le.AppendUint32(dst, s.BlockSize)
	dst = le.AppendUint32(dst, s.Fragments)
	dst = le.AppendUint16(dst, s.Compressor)
	dst = le.AppendUint16(dst, s.BlockLog)
	dst = le.AppendUint16(dst, s.Flags)
	dst = le.AppendUint16(dst, s.IDs)
	dst = le.AppendUint16(dst, Major)
	dst = le.AppendUint16(dst, Minor)
	dst = le.AppendUint64(dst, uint64(s.Root))
	dst = le.AppendUint64(dst, s.BytesUsed)
	dst = le.AppendUint64(dst, s.IDTable)
	dst = le.AppendUint64(dst, s.XattrTable)
	dst = le.AppendUint64(dst, s.InodeTable)
	dst = le.AppendUint64(dst, s.DirTable)
	dst = le.AppendUint64(dst, s.FragTable)
	return le.AppendUint64(dst, s.ExportTable)
}

// DecodeSuperblock reads a superblock. It checks magic and version only.
func DecodeSuperblock(b []byte) (Superblock, error) {
	var s Superblock
	if len(b) < SuperblockSize {
		return s, ErrShort
	}
	le := binary.LittleEndian
	if m := le.Uint32(b); m != Magic {
		return s, fmt.Errorf("magic is %#08x, not %#08x", m, Magic)
	}
	if major, minor := le.Uint16(b[28:]), le.Uint16(b[30:]); major != Major || minor != Minor {
		return s, fmt.Errorf("version is %d.%d, not %d.%d", major, minor, Major, Minor)
	}
	s = Superblock{
		Inodes:      le.Uint32(b[4:]),
		ModTime:     le.Uint32(b[8:]),
		BlockSize:   le.Uint32(b[12:]),
		Fragments:   le.Uint32(b[16:]),
		Compressor:  le.Uint16(b[20:]),
		BlockLog:    le.Uint16(b[22:]),
		Flags:       le.Uint16(b[24:]),
		IDs:         le.Uint16(b[26:]),
		Root:        Ref(le.Uint64(b[32:])),
		BytesUsed:   le.Uint64(b[40:]),
		IDTable:     le.Uint64(b[48:]),
		XattrTable:  le.Uint64(b[56:]),
		InodeTable:  le.Uint64(b[64:]),
		DirTable:    le.Uint64(b[72:]),
		FragTable:   le.Uint64(b[80:]),
		ExportTable: le.Uint64(b[88:]),
	}
	return s, nil
}
