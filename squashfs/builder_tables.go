package squashfs

import (
	"context"
	"encoding/binary"
	"io"

	"hpcimg/squashfs/internal/disk"
)

// tableSet is one run of Builder.WriteTables.
type tableSet struct {
	b    *Builder
	tree *tree
	enc  blockEncoder

	kids      []nodeID
	dirs      []dirState // by ordinal
	targets   []nodeID   // of hard links, by ordinal
	moreLinks map[nodeID]uint32
	numbers   []uint32 // of inodes, by node
	count     uint32   // of inodes that have a number
	refs      []disk.Ref

	inodeTable *tableWriter
	dirTable   *tableWriter
	ids        idTable
	xattrs     *xattrTable
	buf        []byte
	list       []listed
}

// newTableSet puts the inodes in order. Nothing is written yet.
func newTableSet(ctx context.Context, b *Builder) (*tableSet, error) {
	enc, err := b.cfg.newEncoder()
	if err != nil {
		return nil, err
	}
	t := &tableSet{b: b, tree: &b.tree, enc: enc, numbers: make([]uint32, b.tree.count)}
	if err := t.bindHardLinks(); err != nil {
		return nil, err
	}
	t.sortChildren()
	return t, t.number(ctx, 0)
}

// encode writes the inode table to w, and makes the directory, id and xattr
// tables.
func (t *tableSet) encode(ctx context.Context, w *imageWriter) error {
	t.inodeTable = newTableWriter("inode table", t.enc, w)
	t.dirTable = newTableWriter("directory table", t.enc, nil)
	t.xattrs = newXattrTable(&t.tree.xattrs, newTableWriter("xattr table", t.enc, nil))
	t.ids = newIDTable(len(t.tree.owners.list))
	t.refs = make([]disk.Ref, 0, t.count)
	t.dirs[0].list.parent = t.count + 1 // as mksquashfs does
	if err := t.encodeDir(ctx, 0); err != nil {
		return err
	}
	if err := t.addInode(0); err != nil {
		return err
	}
	t.kids, t.numbers = nil, nil
	for _, w := range []*tableWriter{t.inodeTable, t.dirTable, t.xattrs.pairs} {
		if err := w.end(); err != nil {
			return err
		}
	}
	return nil
}

// imageWriter writes tables one after the other.
type imageWriter struct {
	w   io.WriterAt
	pos int64
}

func (w *imageWriter) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	_, err := w.w.WriteAt(b, w.pos)
	w.pos += int64(len(b))
	return err
}

// write writes all tables from start on and then the superblock.
func (t *tableSet) write(ctx context.Context, dst io.WriterAt, start int64) (int64, error) {
	w := &imageWriter{w: dst, pos: start}
	if err := t.encode(ctx, w); err != nil {
		return 0, err
	}
	sb := disk.Superblock{
		Inodes:      t.count,
		ModTime:     storedTime(t.b.opts.ModTime),
		BlockSize:   uint32(t.b.cfg.blockSize),
		BlockLog:    t.b.cfg.blockLog(),
		Compressor:  t.b.cfg.compression.compressorID(),
		Flags:       disk.FlagDuplicates,
		IDs:         uint16(len(t.ids.index)),
		Root:        t.refs[t.count-1],
		InodeTable:  uint64(start),
		DirTable:    uint64(w.pos),
		FragTable:   disk.NoTable,
		ExportTable: disk.NoTable,
		XattrTable:  disk.NoTable,
	}
	if t.b.cfg.compression == CompressionNone {
		sb.Flags |= disk.FlagRawInodes | disk.FlagRawData | disk.FlagRawFragments | disk.FlagRawXattrs | disk.FlagRawIDs
	}
	if err := t.dirTable.copyTo(w); err != nil {
		return 0, err
	}
	if err := t.writeLookups(w, &sb); err != nil {
		return 0, err
	}
	sb.BytesUsed = uint64(w.pos)
	if err := w.write(make([]byte, -w.pos&(disk.PadSize-1))); err != nil {
		return 0, err
	}
	size := w.pos
	options := t.b.cfg.appendOptions(nil)
	if len(options) > 0 {
		sb.Flags |= disk.FlagOptions
	}
	w.pos = 0
	return size, w.write(append(disk.AppendSuperblock(nil, &sb), options...))
}

// writeLookup writes a lookup table, whose entries fill adds, and returns the
// start of its array of block positions. head precedes the array.
func (t *tableSet) writeLookup(w *imageWriter, head []byte, fill func(*tableWriter) error) (uint64, error) {
	base := uint64(w.pos)
	tw := newTableWriter("lookup table", t.enc, w)
	if err := fill(tw); err != nil {
		return 0, err
	}
	if err := tw.end(); err != nil {
		return 0, err
	}
	start := uint64(w.pos)
	for _, s := range tw.starts {
		head = binary.LittleEndian.AppendUint64(head, base+s)
	}
	return start, w.write(head)
}

// writeLookups writes the tables that are found by way of an array. The order
// is the one that readers expect, and the id and xattr arrays end exactly
// where the next table, or the image, does: kernels insist.
func (t *tableSet) writeLookups(w *imageWriter, sb *disk.Superblock) error {
	var err error
	for _, p := range t.b.packs {
		sb.Fragments += uint32(len(p.Fragments))
	}
	if sb.Fragments == 0 {
		sb.Flags |= disk.FlagNoFragments
	} else if sb.FragTable, err = t.writeLookup(w, nil, t.addFragments); err != nil {
		return err
	}
	if !t.b.opts.NoExport {
		sb.Flags |= disk.FlagExport
		if sb.ExportTable, err = t.writeLookup(w, nil, t.addExports); err != nil {
			return err
		}
	}
	ids := func(tw *tableWriter) error { return tw.add(t.ids.list) }
	if sb.IDTable, err = t.writeLookup(w, nil, ids); err != nil {
		return err
	}
	if t.xattrs.count == 0 {
		sb.Flags |= disk.FlagNoXattrs
		return nil
	}
	head := disk.AppendXattrHead(nil, disk.XattrHead{Start: uint64(w.pos), IDs: t.xattrs.count})
	if err := t.xattrs.pairs.copyTo(w); err != nil {
		return err
	}
	sets := func(tw *tableWriter) error { return tw.add(t.xattrs.ids) }
	sb.XattrTable, err = t.writeLookup(w, head, sets)
	return err
}

func (t *tableSet) addFragments(tw *tableWriter) error {
	for _, p := range t.b.packs {
		for _, f := range p.Fragments {
			t.buf = disk.AppendFragment(t.buf[:0], disk.Fragment{Start: uint64(p.offset + f.Start), Word: f.Word})
			if err := tw.add(t.buf); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *tableSet) addExports(tw *tableWriter) error {
	for _, ref := range t.refs {
		t.buf = binary.LittleEndian.AppendUint64(t.buf[:0], uint64(ref))
		if err := tw.add(t.buf); err != nil {
			return err
		}
	}
	return nil
}
