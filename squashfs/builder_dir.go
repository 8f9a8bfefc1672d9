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

// addListing appends the listing of n, whose children have their inodes
// written, to the directory table.
func (t *tableSet) addListing(n *treeNode) error {
	l := &n.dir.list
	*l = listing{ref: t.dirs.ref(), parent: l.parent}
	indexed := listingSize(n.dir.sorted) >= minIndexedListing
	block := l.ref.Block()
	for rest := n.dir.sorted; len(rest) > 0; {
		if at := t.dirs.ref().Block(); indexed && at != block && l.indexes < math.MaxUint16 {
			block = at
			l.indexes++
			l.index = disk.AppendDirIndex(l.index, disk.DirIndex{Position: l.size, Block: uint32(at)}, rest[0].name)
		}
		count, err := t.addRun(rest, l, indexed)
		if err != nil {
			return err
		}
		rest = rest[count:]
	}
	return nil
}

// addRun appends a header and as many entries as may follow it. It returns
// their number.
func (t *tableSet) addRun(nodes []*treeNode, l *listing, indexed bool) (int, error) {
	count := runLength(nodes)
	start := t.dirs.ref()
	if indexed {
		// The run ends with the entry that reaches the next metadata
		// block, so that an index entry can point behind it.
		size := start.Offset() + disk.DirHeaderSize
		for i, n := range nodes[:count] {
			if size += disk.DirEntrySize + len(n.name); size >= disk.MetadataSize {
				count = i + 1
				break
			}
		}
	}
	first := nodes[0].resolved()
	t.buf = disk.AppendDirHeader(t.buf[:0], disk.DirHeader{
		Count: uint32(count), Block: uint32(first.ref.Block()), Number: first.number,
	})
	for _, n := range nodes[:count] {
		in := n.resolved()
		t.buf = disk.AppendDirEntry(t.buf, disk.DirEntry{
			Offset: uint16(in.ref.Offset()),
			Delta:  int16(int64(in.number) - int64(first.number)),
			Type:   in.typ,
		}, n.name)
	}
	l.size += uint32(len(t.buf))
	return count, t.dirs.add(t.buf)
}

// runLength returns how many of nodes fit into one run: their inodes lie in the
// same metadata block and have numbers near that of the first.
func runLength(nodes []*treeNode) int {
	first := nodes[0].resolved()
	for i, n := range nodes {
		in := n.resolved()
		delta := int64(in.number) - int64(first.number)
		if i == disk.MaxRun || in.ref.Block() != first.ref.Block() || delta > math.MaxInt16 || delta < -math.MaxInt16 {
			return i
		}
	}
	return len(nodes)
}

// listingSize estimates the size of a listing.
func listingSize(nodes []*treeNode) int {
	size := 0
	for _, n := range nodes {
		size += disk.DirEntrySize + len(n.name)
	}
	return size
}
