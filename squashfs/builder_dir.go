package squashfs

import (
	"math"

	"hpcimg/squashfs/internal/disk"
)

// listing says where the listing of a directory is.
type listing struct {
	ref     disk.Ref
	size    uint32
	parent  uint32 // inode number of the parent
	indexes uint16
	index   []byte
}

// minIndexedListing is the size from which a listing has an index. A shorter
// one is in two metadata blocks at most.
const minIndexedListing = disk.MetadataSize

// addListing appends the listing of d, whose children have their inodes
// written, to the directory table.
func (t *tableSet) addListing(d *dirState) error {
	l := &d.list
	l.ref = t.dirTable.ref()
	kids := t.children(d)
	indexed := t.listingSize(kids) >= minIndexedListing
	block := l.ref.Block()
	for len(kids) > 0 {
		if at := t.dirTable.ref().Block(); indexed && at != block && l.indexes < math.MaxUint16 {
			block = at
			l.indexes++
			l.index = disk.AppendDirIndex(l.index, disk.DirIndex{Position: l.size, Block: uint32(at)}, t.tree.name(kids[0]))
		}
		run := t.run(kids, indexed)
		if err := t.addRun(run, l); err != nil {
			return err
		}
		kids = kids[len(run):]
	}
	return nil
}

// listingSize estimates the size of a listing.
func (t *tableSet) listingSize(kids []nodeID) int {
	size := 0
	for _, c := range kids {
		size += disk.DirEntrySize + len(t.tree.name(c))
	}
	return size
}

// listed is what a listing says of an entry.
type listed struct {
	name   []byte
	ref    disk.Ref
	number uint32
	typ    uint16
}

func (t *tableSet) describe(id nodeID) listed {
	in := t.resolved(id)
	number := t.numbers[in]
	return listed{t.tree.name(id), t.refs[number-1], number, uint16(t.tree.at(in).typ)}
}

// run returns as many of the first kids as fit into one run: their inodes lie
// in the same metadata block and have numbers near that of the first. With an
// index, the run ends with the entry that reaches the next metadata block of
// the listing, so that an index entry can point behind it.
func (t *tableSet) run(kids []nodeID, indexed bool) []listed {
	size := t.dirTable.ref().Offset() + disk.DirHeaderSize
	list := t.list[:0]
	for _, id := range kids {
		c := t.describe(id)
		if len(list) > 0 {
			delta := int64(c.number) - int64(list[0].number)
			if len(list) == disk.MaxRun || c.ref.Block() != list[0].ref.Block() || delta > math.MaxInt16 || delta < -math.MaxInt16 {
				break
			}
		}
		list = append(list, c)
		if size += disk.DirEntrySize + len(c.name); indexed && size >= disk.MetadataSize {
			break
		}
	}
	t.list = list
	return list
}

// addRun appends a header and the entries of a run.
func (t *tableSet) addRun(run []listed, l *listing) error {
	first := run[0]
	t.buf = disk.AppendDirHeader(t.buf[:0], disk.DirHeader{
		Count: uint32(len(run)), Block: uint32(first.ref.Block()), Number: first.number,
	})
	for _, c := range run {
		t.buf = disk.AppendDirEntry(t.buf, disk.DirEntry{
			Offset: uint16(c.ref.Offset()),
			Delta:  int16(int64(c.number) - int64(first.number)),
			Type:   c.typ,
		}, c.name)
	}
	l.size += uint32(len(t.buf))
	return t.dirTable.add(t.buf)
}
