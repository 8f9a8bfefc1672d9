package disk

import (
	"encoding/binary"
	"errors"
)

// Sizes of the entries of lookup tables.
const (
	FragmentSize  = 16
	ExportSize    = 8
	IDSize        = 4
	XattrIDSize   = 16
	XattrHeadSize = 16 // precedes the block positions of the xattr id table
	PositionSize  = 8  // of one element in the array after a lookup table
)

// LookupBlocks returns the number of metadata blocks, and so of positions, of
// a lookup table of n entries of the given size.
func LookupBlocks(n, size int) int { return (n*size + MetadataSize - 1) / MetadataSize }

// Fragment is an entry of the fragment table.
type Fragment struct {
	Start uint64
	Word  SizeWord
}

// AppendFragment appends f to dst.
func AppendFragment(dst []byte, f Fragment) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint64(dst, f.Start)
	dst = le.AppendUint32(dst, f.Word)
	return le.AppendUint32(dst, 0)
}

// DecodeFragment reads an entry of the fragment table.
func DecodeFragment(b []byte) (Fragment, error) {
	if len(b) < FragmentSize {
		return Fragment{}, ErrShort
	}
	le := binary.LittleEndian
	return Fragment{Start: le.Uint64(b), Word: le.Uint32(b[8:])}, nil
}

// Prefixes of xattr names, and the bit that says that the value is a [Ref]
// to where it is stored.
const (
	XattrUser      = 0
	XattrTrusted   = 1
	XattrSecurity  = 2
	XattrOutOfLine = 0x100
)

// XattrPrefix returns the text of a prefix: "user.", "trusted." or
// "security."; ok is false for any other.
func XattrPrefix(p uint16) (s string, ok bool) {
	switch p &^ XattrOutOfLine {
	case XattrUser:
		return "user.", true
	case XattrTrusted:
		return "trusted.", true
	case XattrSecurity:
		return "security.", true
	}
	return "", false
}

// XattrID is an entry of the xattr id table: a set of attributes.
type XattrID struct {
	Ref   Ref    // relative to the start of the key-value table
	Count uint32 // attributes
	Size  uint32 // bytes of names and values, a hint; writers count differently
}

// AppendXattrID appends x to dst.
func AppendXattrID(dst []byte, x XattrID) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint64(dst, uint64(x.Ref))
	dst = le.AppendUint32(dst, x.Count)
	return le.AppendUint32(dst, x.Size)
}

// DecodeXattrID reads an entry of the xattr id table.
func DecodeXattrID(b []byte) (XattrID, error) {
	if len(b) < XattrIDSize {
		return XattrID{}, ErrShort
	}
	le := binary.LittleEndian
	return XattrID{Ref: Ref(le.Uint64(b)), Count: le.Uint32(b[8:]), Size: le.Uint32(b[12:])}, nil
}

// XattrHead is what the superblock's xattr table start points at. The array of
// block positions follows it.
type XattrHead struct {
	Start uint64 // of the key-value table
	IDs   uint32
}

// AppendXattrHead appends h to dst.
func AppendXattrHead(dst []byte, h XattrHead) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint64(dst, h.Start)
	dst = le.AppendUint32(dst, h.IDs)
	return le.AppendUint32(dst, 0)
}

// DecodeXattrHead reads the head of the xattr id table.
func DecodeXattrHead(b []byte) (XattrHead, error) {
	if len(b) < XattrHeadSize {
		return XattrHead{}, ErrShort
	}
	le := binary.LittleEndian
	return XattrHead{Start: le.Uint64(b), IDs: le.Uint32(b[8:])}, nil
}

// XattrKeySize and XattrValueSize are the sizes of the fixed parts of a key
// and of a value.
const (
	XattrKeySize   = 4
	XattrValueSize = 4
)

// AppendXattrKey appends a key: prefix, length and name without the prefix.
func AppendXattrKey(dst []byte, prefix uint16, name string) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint16(dst, prefix)
	dst = le.AppendUint16(dst, uint16(len(name)))
	return append(dst, name...)
}

// DecodeXattrKey reads a key without its name.
func DecodeXattrKey(b []byte) (prefix uint16, nameSize int, err error) {
	if len(b) < XattrKeySize {
		return 0, 0, ErrShort
	}
	le := binary.LittleEndian
	prefix = le.Uint16(b)
	if prefix&^XattrOutOfLine > XattrSecurity {
		return 0, 0, errors.New("unknown xattr prefix")
	}
	return prefix, int(le.Uint16(b[2:])), nil
}

// AppendXattrValue appends a value and its length.
func AppendXattrValue(dst []byte, value string) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(value)))
	return append(dst, value...)
}

// AppendXattrValueRef appends the reference to a value stored elsewhere, as
// it stands behind a key with [XattrOutOfLine].
func AppendXattrValueRef(dst []byte, r Ref) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, 8)
	return binary.LittleEndian.AppendUint64(dst, uint64(r))
}

// DecodeXattrValueSize reads the length of a value.
func DecodeXattrValueSize(b []byte) (uint32, error) {
	if len(b) < XattrValueSize {
		return 0, ErrShort
	}
	return binary.LittleEndian.Uint32(b), nil
}
