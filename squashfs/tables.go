package squashfs

import (
	"encoding/binary"
	"io"

	"hpcimg/squashfs/internal/disk"
)

// maxIndexSize bounds the array of block positions behind a lookup table. It
// allows half a billion fragments and a billion inodes.
const maxIndexSize = 8 << 20

// lookupTable is one of the tables whose entries are found by number: metadata
// blocks of 8 KiB and, from table.end, the positions of these blocks.
type lookupTable struct {
	table     metaTable
	entrySize int64
	count     int64
	index     []int64
}

// readLookup reads the positions of a lookup table from start.
func (r *Reader) readLookup(name string, start uint64, count, entrySize int64) (*lookupTable, error) {
	t := &lookupTable{entrySize: entrySize, count: count}
	t.table = metaTable{name: name, start: disk.SuperblockSize, end: int64(start)}
	n := (count*entrySize + disk.MetadataSize - 1) / disk.MetadataSize
	size := n * disk.PositionSize
	if start < disk.SuperblockSize || start > uint64(r.used) || size > r.used-int64(start) {
		return nil, formatErrorf(name, int64(start), "index of %d entries outside the image", count)
	}
	if size > maxIndexSize {
		return nil, &LimitError{What: "entries in the " + name, Limit: maxIndexSize / disk.PositionSize * disk.MetadataSize / entrySize}
	}
	buf := make([]byte, size)
	if err := r.readFull(buf, int64(start)); err != nil {
		return nil, err
	}
	t.index = make([]int64, n)
	last := int64(disk.SuperblockSize) - 1
	for i := range t.index {
		p := binary.LittleEndian.Uint64(buf[i*disk.PositionSize:])
		if p >= start || int64(p) <= last {
			return nil, formatErrorf(name, int64(start), "block %d at %#x is out of place", i, p)
		}
		last = int64(p)
		t.index[i] = last
	}
	if n > 0 {
		t.table.start = t.index[0]
	}
	return t, nil
}

// read fills p, which has the size of an entry, with entry i.
func (t *lookupTable) read(r *Reader, p []byte, i int64) error {
	if i < 0 || i >= t.count {
		return formatErrorf(t.table.name, t.table.end, "entry %d of %d", i, t.count)
	}
	pos := i * t.entrySize
	c := r.cursorAt(&t.table, metaPos{t.index[pos/disk.MetadataSize], int(pos % disk.MetadataSize)})
	return c.read(p)
}

// readIDs reads the id table, all of it: it has at most 65535 entries.
func (r *Reader) readIDs() error {
	t, err := r.readLookup("id table", r.sb.IDTable, int64(r.sb.IDs), disk.IDSize)
	if err != nil {
		return err
	}
	if t.count == 0 {
		return formatErrorf("id table", int64(r.sb.IDTable), "no entries")
	}
	r.idTable = t
	r.ids = make([]uint32, t.count)
	buf := make([]byte, min(t.count*disk.IDSize, disk.MetadataSize))
	for i, pos := range t.index {
		first := i * (disk.MetadataSize / disk.IDSize)
		n := min(len(r.ids)-first, disk.MetadataSize/disk.IDSize)
		c := r.cursorAt(&t.table, metaPos{pos, 0})
		if err := c.read(buf[:n*disk.IDSize]); err != nil {
			return err
		}
		for k := range n {
			r.ids[first+k] = binary.LittleEndian.Uint32(buf[k*disk.IDSize:])
		}
	}
	return nil
}

// readTables locates all tables but that of the extended attributes.
func (r *Reader) readTables() error {
	if err := r.readIDs(); err != nil {
		return err
	}
	dirEnd := r.idTable.index[0]
	if r.sb.Fragments > 0 {
		if r.sb.FragTable == disk.NoTable {
			return formatErrorf("fragment table", 0, "%d fragments but no table", r.sb.Fragments)
		}
		t, err := r.readLookup("fragment table", r.sb.FragTable, int64(r.sb.Fragments), disk.FragmentSize)
		if err != nil {
			return err
		}
		r.fragTable = t
		dirEnd = minAbove(dirEnd, t.index[0], int64(r.sb.DirTable))
	}
	if r.sb.ExportTable != disk.NoTable {
		t, err := r.readLookup("export table", r.sb.ExportTable, int64(r.sb.Inodes), disk.ExportSize)
		if err != nil {
			return err
		}
		r.exportTable = t
		if len(t.index) > 0 {
			dirEnd = minAbove(dirEnd, t.index[0], int64(r.sb.DirTable))
		}
	}
	r.inodes = metaTable{"inode table", int64(r.sb.InodeTable), int64(r.sb.DirTable)}
	r.dirs = metaTable{"directory table", int64(r.sb.DirTable), dirEnd}
	if dirEnd < r.dirs.start {
		return formatErrorf("superblock", 0, "directory table at %#x after the id table at %#x", r.dirs.start, dirEnd)
	}
	return nil
}

// minAbove returns the smaller of a and b, b only if it is not below limit.
func minAbove(a, b, limit int64) int64 {
	if b >= limit && b < a {
		return b
	}
	return a
}

// fragmentEntry returns entry i of the fragment table.
func (r *Reader) fragmentEntry(i uint32) (disk.Fragment, error) {
	if r.fragTable == nil {
		return disk.Fragment{}, formatErrorf("fragment table", 0, "fragment %d of none", i)
	}
	var buf [disk.FragmentSize]byte
	if err := r.fragTable.read(r, buf[:], int64(i)); err != nil {
		return disk.Fragment{}, err
	}
	return disk.DecodeFragment(buf[:])
}

// checkSuperblock refuses what the tables cannot be read with.
func checkSuperblock(sb *disk.Superblock, size int64) error {
	fail := func(format string, args ...any) error {
		return formatErrorf("superblock", 0, format, args...)
	}
	switch bs := sb.BlockSize; {
	case bs < disk.MinBlockSize || bs > disk.MaxBlockSize || bs&(bs-1) != 0:
		return fail("block size %d is not a power of 2 from 4 KiB to 1 MiB", bs)
	case sb.BlockLog > 20 || bs != 1<<sb.BlockLog:
		return fail("block size %d but its logarithm is %d", bs, sb.BlockLog)
	case sb.BytesUsed > uint64(size):
		return formatErrorf("superblock", 0, "%d bytes used, of %d there are: %w", sb.BytesUsed, size, io.ErrUnexpectedEOF)
	case sb.BytesUsed < disk.SuperblockSize:
		return fail("%d bytes used", sb.BytesUsed)
	case sb.Inodes == 0:
		return fail("no inodes")
	case sb.InodeTable < disk.SuperblockSize || sb.InodeTable >= sb.DirTable || sb.DirTable > sb.BytesUsed:
		return fail("inode table at %#x, directory table at %#x of %#x bytes", sb.InodeTable, sb.DirTable, sb.BytesUsed)
	}
	return nil
}
