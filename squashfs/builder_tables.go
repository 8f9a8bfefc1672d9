package squashfs

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"hpcimg/squashfs/internal/disk"
)

// tableSet is one run of Builder.WriteTables.
type tableSet struct {
	b      *Builder
	order  []*treeNode // inodes by number
	done   uint32      // inodes written
	enc    blockEncoder
	inodes *tableWriter
	dirs   *tableWriter
	ids    idTable
	xattrs *xattrTable
	buf    []byte
}

func newTableSet(b *Builder) (*tableSet, error) {
	enc, err := b.cfg.newEncoder()
	if err != nil {
		return nil, err
	}
	return &tableSet{
		b:      b,
		enc:    enc,
		inodes: newTableWriter(enc),
		dirs:   newTableWriter(enc),
		ids:    idTable{index: make(map[uint32]uint16)},
		xattrs: newXattrTable(newTableWriter(enc)),
	}, nil
}

// encode fills the inode, directory, id and xattr tables.
func (t *tableSet) encode(ctx context.Context) error {
	var err error
	if t.order, err = t.b.number(ctx); err != nil {
		return err
	}
	t.b.root.dir.list.parent = uint32(len(t.order)) + 1 // as mksquashfs does
	if err := t.encodeDir(ctx, t.b.root); err != nil {
		return err
	}
	if err := t.addInode(t.b.root); err != nil {
		return err
	}
	for _, w := range []*tableWriter{t.inodes, t.dirs, t.xattrs.pairs} {
		if err := w.flush(); err != nil {
			return fmt.Errorf("squashfs: %w", err)
		}
	}
	// Directories and listings name blocks of both tables in 32 bits.
	if int64(len(t.inodes.out)) > math.MaxUint32 || int64(len(t.dirs.out)) > math.MaxUint32 {
		return &LimitError{What: "bytes in the inode or directory table", Limit: math.MaxUint32}
	}
	return nil
}

// encodeDir writes the inodes of all children of n, in the order that
// Builder.number has found, and then its listing.
func (t *tableSet) encodeDir(ctx context.Context, n *treeNode) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("squashfs: %w", err)
	}
	for _, c := range n.dir.sorted {
		if c.isDir() {
			c.dir.list.parent = n.number
			if err := t.encodeDir(ctx, c); err != nil {
				return err
			}
		}
	}
	for _, c := range n.dir.sorted {
		if c = c.resolved(); c.number == t.done+1 {
			if err := t.addInode(c); err != nil {
				return err
			}
		}
	}
	return t.addListing(n)
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

// writeLookup writes a lookup table and returns the start of its array of
// block positions. head precedes the array.
func (t *tableSet) writeLookup(w *imageWriter, entries []byte, head []byte) (uint64, error) {
	tw := newTableWriter(t.enc)
	if err := tw.add(entries); err != nil {
		return 0, err
	}
	if err := tw.flush(); err != nil {
		return 0, err
	}
	base := uint64(w.pos)
	out := tw.out
	start := base + uint64(len(out))
	out = append(out, head...)
	for _, s := range tw.starts {
		out = binary.LittleEndian.AppendUint64(out, base+s)
	}
	return start, w.write(out)
}

// write writes all tables from start on and then the superblock.
func (t *tableSet) write(dst io.WriterAt, start int64) (int64, error) {
	w := &imageWriter{w: dst, pos: start}
	sb := disk.Superblock{
		Inodes:      uint32(len(t.order)),
		ModTime:     storedTime(t.b.opts.ModTime),
		BlockSize:   uint32(t.b.cfg.blockSize),
		BlockLog:    t.b.cfg.blockLog(),
		Compressor:  t.b.cfg.compression.compressorID(),
		Flags:       disk.FlagDuplicates,
		IDs:         uint16(len(t.ids.index)),
		Root:        t.b.root.ref,
		FragTable:   disk.NoTable,
		ExportTable: disk.NoTable,
		XattrTable:  disk.NoTable,
	}
	if t.b.cfg.compression == CompressionNone {
		sb.Flags |= disk.FlagRawInodes | disk.FlagRawData | disk.FlagRawFragments | disk.FlagRawXattrs | disk.FlagRawIDs
	}
	sb.InodeTable = uint64(w.pos)
	if err := w.write(t.inodes.out); err != nil {
		return 0, err
	}
	sb.DirTable = uint64(w.pos)
	if err := w.write(t.dirs.out); err != nil {
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
	header := disk.AppendSuperblock(nil, &sb)
	if options := t.b.cfg.appendOptions(nil); len(options) > 0 {
		sb.Flags |= disk.FlagOptions
		header = append(disk.AppendSuperblock(nil, &sb), options...)
	}
	w.pos = 0
	return size, w.write(header)
}

// writeLookups writes the tables that are found by way of an array. The order
// is the one that readers expect, and the id and xattr arrays end exactly
// where the next table, or the image, does: kernels insist.
func (t *tableSet) writeLookups(w *imageWriter, sb *disk.Superblock) error {
	var err error
	var entries []byte
	for _, p := range t.b.packs {
		for _, f := range p.Fragments {
			entries = disk.AppendFragment(entries, disk.Fragment{Start: uint64(p.offset + f.Start), Word: f.Word})
			sb.Fragments++
		}
	}
	if sb.Fragments == 0 {
		sb.Flags |= disk.FlagNoFragments
	} else if sb.FragTable, err = t.writeLookup(w, entries, nil); err != nil {
		return err
	}
	if !t.b.opts.NoExport {
		entries = entries[:0]
		for _, n := range t.order {
			entries = binary.LittleEndian.AppendUint64(entries, uint64(n.ref))
		}
		sb.Flags |= disk.FlagExport
		if sb.ExportTable, err = t.writeLookup(w, entries, nil); err != nil {
			return err
		}
	}
	if sb.IDTable, err = t.writeLookup(w, t.ids.list, nil); err != nil {
		return err
	}
	if t.xattrs.count == 0 {
		sb.Flags |= disk.FlagNoXattrs
		return nil
	}
	head := disk.AppendXattrHead(nil, disk.XattrHead{Start: uint64(w.pos), IDs: t.xattrs.count})
	if err := w.write(t.xattrs.pairs.out); err != nil {
		return err
	}
	sb.XattrTable, err = t.writeLookup(w, t.xattrs.ids, head)
	return err
}
