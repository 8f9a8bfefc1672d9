package disk

import (
	"encoding/binary"
	"fmt"
)

// Inode types. An extended type is its basic type plus [Extended].
const (
	TypeDir = 1 + iota
	TypeFile
	TypeSymlink
	TypeBlock
	TypeChar
	TypeFIFO
	TypeSocket
	TypeExtDir
	TypeExtFile
	TypeExtSymlink
	TypeExtBlock
	TypeExtChar
	TypeExtFIFO
	TypeExtSocket

	// Extended is the distance between a basic type and its extended form.
	Extended = TypeExtDir - TypeDir
)

// MaxInodeSize is the size of the longest inode, not counting the part of
// variable length at its end.
const MaxInodeSize = 56

// InodeHeaderSize is the size of the header that all inodes share.
const InodeHeaderSize = 16

// Inode is any of the 14 kinds of inode, without the part of variable length:
// a file's block list, a link's target, a directory's index. Which fields
// have a meaning depends on Type.
type Inode struct {
	Type   uint16 // as stored: 1 to 14
	Mode   uint16 // the 12 permission bits; kernels refuse others
	UID    uint16 // index into the id table
	GID    uint16 // index into the id table
	MTime  uint32
	Number uint32 // 1 to Superblock.Inodes

	Links uint32 // all but basic files, for which it is 1
	Xattr uint32 // index into the xattr table, or NoXattr; see TypeExtSymlink below

	// Directories.
	DirBlock  uint32 // position of the metadata block with the listing
	DirOffset uint16 // offset of the listing within that block
	DirSize   uint32 // bytes of the listing plus 3
	Parent    uint32 // number of the parent's inode
	Indexes   uint16 // entries of the directory index; extended only

	// Files.
	Start      uint64 // position of the first block
	Size       uint64 // bytes
	Sparse     uint64 // bytes in blocks of zeros; extended only
	Fragment   uint32 // index into the fragment table, or NoFragment
	FragOffset uint32

	// Symbolic links: length of the target, which follows. In the extended
	// form the xattr index comes after the target, so that DecodeInode
	// leaves Xattr at NoXattr and AppendInode does not write it.
	TargetSize uint32

	// Devices, see EncodeDevice.
	Device uint32
}

// BasicType returns the type of an inode with the extension taken off.
func BasicType(t uint16) uint16 {
	if t > Extended {
		return t - Extended
	}
	return t
}

// AppendInode appends the fixed part of in to dst.
func AppendInode(dst []byte, in *Inode) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint16(dst, in.Type)
	dst = le.AppendUint16(dst, in.Mode)
	dst = le.AppendUint16(dst, in.UID)
	dst = le.AppendUint16(dst, in.GID)
	dst = le.AppendUint32(dst, in.MTime)
	dst = le.AppendUint32(dst, in.Number)
	switch in.Type {
	case TypeDir:
		dst = le.AppendUint32(dst, in.DirBlock)
		dst = le.AppendUint32(dst, in.Links)
		dst = le.AppendUint16(dst, uint16(in.DirSize))
		dst = le.AppendUint16(dst, in.DirOffset)
		return le.AppendUint32(dst, in.Parent)
	case TypeExtDir:
		dst = le.AppendUint32(dst, in.Links)
		dst = le.AppendUint32(dst, in.DirSize)
		dst = le.AppendUint32(dst, in.DirBlock)
		dst = le.AppendUint32(dst, in.Parent)
		dst = le.AppendUint16(dst, in.Indexes)
		dst = le.AppendUint16(dst, in.DirOffset)
		return le.AppendUint32(dst, in.Xattr)
	case TypeFile:
		dst = le.AppendUint32(dst, uint32(in.Start))
		dst = le.AppendUint32(dst, in.Fragment)
		dst = le.AppendUint32(dst, in.FragOffset)
		return le.AppendUint32(dst, uint32(in.Size))
	case TypeExtFile:
		dst = le.AppendUint64(dst, in.Start)
		dst = le.AppendUint64(dst, in.Size)
		dst = le.AppendUint64(dst, in.Sparse)
		dst = le.AppendUint32(dst, in.Links)
		dst = le.AppendUint32(dst, in.Fragment)
		dst = le.AppendUint32(dst, in.FragOffset)
		return le.AppendUint32(dst, in.Xattr)
	case TypeSymlink, TypeExtSymlink:
		dst = le.AppendUint32(dst, in.Links)
		return le.AppendUint32(dst, in.TargetSize)
	}
	dst = le.AppendUint32(dst, in.Links)
	switch BasicType(in.Type) {
	case TypeBlock, TypeChar:
		dst = le.AppendUint32(dst, in.Device)
	}
	if in.Type > Extended {
		dst = le.AppendUint32(dst, in.Xattr)
	}
	return dst
}

// InodeSize returns the size of the fixed part of an inode of type t, or 0 if
// there is no such type.
func InodeSize(t uint16) int {
	switch t {
	case TypeDir, TypeFile:
		return 32
	case TypeExtDir:
		return 40
	case TypeExtFile:
		return 56
	case TypeSymlink, TypeExtSymlink, TypeBlock, TypeChar, TypeExtFIFO, TypeExtSocket:
		return 24
	case TypeExtBlock, TypeExtChar:
		return 28
	case TypeFIFO, TypeSocket:
		return 20
	}
	return 0
}

// DecodeInode reads the fixed part of an inode from the start of b into in and
// returns its size. [MaxInodeSize] bytes are always enough.
func DecodeInode(b []byte, in *Inode) (int, error) {
	if len(b) < InodeHeaderSize {
		return 0, ErrShort
	}
	le := binary.LittleEndian
	*in = Inode{
		Type:     le.Uint16(b),
		Mode:     le.Uint16(b[2:]),
		UID:      le.Uint16(b[4:]),
		GID:      le.Uint16(b[6:]),
		MTime:    le.Uint32(b[8:]),
		Number:   le.Uint32(b[12:]),
		Links:    1,
		Xattr:    NoXattr,
		Fragment: NoFragment,
	}
	n := InodeSize(in.Type)
	if n == 0 {
		return 0, fmt.Errorf("inode type %d does not exist", in.Type)
	}
	if len(b) < n {
		return 0, ErrShort
	}
	decodeInodeBody(b[InodeHeaderSize:n], in)
	return n, nil
}

func decodeInodeBody(b []byte, in *Inode) {
	le := binary.LittleEndian
	switch in.Type {
	case TypeDir:
		in.DirBlock = le.Uint32(b)
		in.Links = le.Uint32(b[4:])
		in.DirSize = uint32(le.Uint16(b[8:]))
		in.DirOffset = le.Uint16(b[10:])
		in.Parent = le.Uint32(b[12:])
		return
	case TypeExtDir:
		in.Links = le.Uint32(b)
		in.DirSize = le.Uint32(b[4:])
		in.DirBlock = le.Uint32(b[8:])
		in.Parent = le.Uint32(b[12:])
		in.Indexes = le.Uint16(b[16:])
		in.DirOffset = le.Uint16(b[18:])
		in.Xattr = le.Uint32(b[20:])
		return
	case TypeFile:
		in.Start = uint64(le.Uint32(b))
		in.Fragment = le.Uint32(b[4:])
		in.FragOffset = le.Uint32(b[8:])
		in.Size = uint64(le.Uint32(b[12:]))
		return
	case TypeExtFile:
		in.Start = le.Uint64(b)
		in.Size = le.Uint64(b[8:])
		in.Sparse = le.Uint64(b[16:])
		in.Links = le.Uint32(b[24:])
		in.Fragment = le.Uint32(b[28:])
		in.FragOffset = le.Uint32(b[32:])
		in.Xattr = le.Uint32(b[36:])
		return
	}
	in.Links = le.Uint32(b)
	b = b[4:]
	switch BasicType(in.Type) {
	case TypeSymlink:
		in.TargetSize = le.Uint32(b)
		return
	case TypeBlock, TypeChar:
		in.Device = le.Uint32(b)
		b = b[4:]
	}
	if in.Type > Extended {
		in.Xattr = le.Uint32(b)
	}
}

// Limits of a device number as it is stored.
const (
	MaxDeviceMajor = 1<<12 - 1
	MaxDeviceMinor = 1<<20 - 1
)

// EncodeDevice packs a device number.
func EncodeDevice(major, minor uint32) uint32 {
	return minor&0xff | major&0xfff<<8 | minor&^0xff<<12
}

// DecodeDevice unpacks a device number.
func DecodeDevice(d uint32) (major, minor uint32) {
	return d >> 8 & 0xfff, d&0xff | d>>12&0xfff00
}
