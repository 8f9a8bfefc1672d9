package disk

import (
	"encoding/binary"
	"errors"
)

// Directory listings are made of runs: a header and up to [MaxRun] entries
// whose inodes lie in the same metadata block of the inode table.
const (
	// MaxRun is the greatest number of entries after a header. The count
	// has room for more, but kernels give up on the directory.
	MaxRun = 256
	// DirHeaderSize is the size of a run's header.
	DirHeaderSize = 12
	// DirEntrySize is the size of an entry without its name.
	DirEntrySize = 8
	// DirIndexSize is the size of a directory index entry without its name.
	DirIndexSize = 12
	// EmptyDirSize is what a listing's size in an inode has been raised by:
	// readers take it for the entries "." and "..".
	EmptyDirSize = 3
)

// DirHeader starts a run.
type DirHeader struct {
	Count  uint32 // entries that follow: stored less one
	Block  uint32 // position of the metadata block with the inodes
	Number uint32 // inode number that the entries' deltas are relative to
}

// AppendDirHeader appends h to dst.
func AppendDirHeader(dst []byte, h DirHeader) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, h.Count-1)
	dst = le.AppendUint32(dst, h.Block)
	return le.AppendUint32(dst, h.Number)
}

// DecodeDirHeader reads the header of a run of at most [MaxRun] entries.
func DecodeDirHeader(b []byte) (DirHeader, error) {
	if len(b) < DirHeaderSize {
		return DirHeader{}, ErrShort
	}
	le := binary.LittleEndian
	n := le.Uint32(b)
	if n >= MaxRun {
		return DirHeader{}, errors.New("more than 256 entries in a run")
	}
	return DirHeader{Count: n + 1, Block: le.Uint32(b[4:]), Number: le.Uint32(b[8:])}, nil
}

// DirEntry is an entry of a run. Its name follows.
type DirEntry struct {
	Offset   uint16 // of the inode within its metadata block
	Delta    int16  // inode number less the header's
	Type     uint16 // basic type
	NameSize int    // 1 to 65536: stored less one
}

// AppendDirEntry appends e and its name to dst. The size is the name's.
func AppendDirEntry[S string | []byte](dst []byte, e DirEntry, name S) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint16(dst, e.Offset)
	dst = le.AppendUint16(dst, uint16(e.Delta))
	dst = le.AppendUint16(dst, e.Type)
	dst = le.AppendUint16(dst, uint16(len(name)-1))
	return append(dst, name...)
}

// DecodeDirEntry reads an entry without its name.
func DecodeDirEntry(b []byte) (DirEntry, error) {
	if len(b) < DirEntrySize {
		return DirEntry{}, ErrShort
	}
	le := binary.LittleEndian
	return DirEntry{
		Offset:   le.Uint16(b),
		Delta:    int16(le.Uint16(b[2:])),
		Type:     le.Uint16(b[4:]),
		NameSize: int(le.Uint16(b[6:])) + 1,
	}, nil
}

// DirIndex is an entry of a directory index: where in a listing a metadata
// block begins. The name of the first entry there follows.
type DirIndex struct {
	Position uint32 // offset within the listing
	Block    uint32 // position of the metadata block in the directory table
	NameSize int    // stored less one
}

// AppendDirIndex appends x and its name to dst. The size is the name's.
func AppendDirIndex[S string | []byte](dst []byte, x DirIndex, name S) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, x.Position)
	dst = le.AppendUint32(dst, x.Block)
	dst = le.AppendUint32(dst, uint32(len(name)-1))
	return append(dst, name...)
}

// DecodeDirIndex reads an index entry without its name. Names that no
// directory entry could have are refused.
func DecodeDirIndex(b []byte) (DirIndex, error) {
	if len(b) < DirIndexSize {
		return DirIndex{}, ErrShort
	}
	le := binary.LittleEndian
	n := le.Uint32(b[8:])
	if n > MaxNameLen {
		return DirIndex{}, errors.New("name in directory index too long")
	}
	return DirIndex{Position: le.Uint32(b), Block: le.Uint32(b[4:]), NameSize: int(n) + 1}, nil
}
