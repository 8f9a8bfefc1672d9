package squashfs

import (
	"encoding/binary"

	"github.com/klauspost/compress/zstd"

	"hpcimg/squashfs/internal/disk"
)

// inspect looks at a compressed block for what decoders here forgive.
func (c *checker) inspect(src []byte, structure string, off int64) {
	switch c.r.sb.Compressor {
	case disk.CompressorZstd:
		var h zstd.Header
		if err := h.Decode(src); err != nil || h.SingleSegment {
			return
		}
		if limit := uint64(max(c.r.sb.BlockSize, disk.MetadataSize)); h.WindowSize > limit {
			c.findf(RuleZstdWindow, structure, off, "zstd frame with a window of %d bytes", h.WindowSize)
		}
	case disk.CompressorXZ:
		if len(src) > 7 && src[7] != xzCheckNone && src[7] != xzCheckCRC32 {
			c.findf(RuleXZCheck, structure, off, "xz stream with check %#x", src[7])
		}
	}
}

// options checks the compressor options, which only lz4 cannot do without.
func (c *checker) options() error {
	r := c.r
	c.dataStart = disk.SuperblockSize
	if r.sb.Flags&disk.FlagOptions == 0 {
		if r.sb.Compressor == disk.CompressorLZ4 {
			c.findf(RuleOptions, "superblock", 0, "lz4 without compressor options")
		}
		return nil
	}
	var buf [disk.MetadataHeaderSize + 8]byte
	if int64(len(buf)) > r.used-disk.SuperblockSize {
		return c.fatal(RuleOptions, formatErrorf("compressor options", disk.SuperblockSize, "outside the image"))
	}
	if err := r.readFull(buf[:], disk.SuperblockSize); err != nil {
		return err
	}
	n, raw := disk.DecodeMetadataHeader(binary.LittleEndian.Uint16(buf[:]))
	want := map[uint16]int{
		disk.CompressorGzip: 8, disk.CompressorXZ: 8, disk.CompressorLZ4: 8, disk.CompressorZstd: 4,
	}[r.sb.Compressor]
	if !raw || n != want {
		c.findf(RuleOptions, "compressor options", disk.SuperblockSize, "%d bytes, raw: %v; want %d bytes, raw", n, raw, want)
		return nil
	}
	c.dataStart += int64(disk.MetadataHeaderSize + n)
	if v := binary.LittleEndian.Uint32(buf[disk.MetadataHeaderSize:]); r.sb.Compressor == disk.CompressorLZ4 && v != disk.LZ4Version {
		c.findf(RuleOptions, "compressor options", disk.SuperblockSize, "lz4 version %d", v)
	}
	return nil
}

// tables reads the lookup tables and checks that they stand as kernels want
// them: each index ends where the next table starts.
func (c *checker) tables() error {
	r := c.r
	if r.sb.IDs == 0 {
		return c.fatal(RuleNoIDs, formatErrorf("id table", int64(r.sb.IDTable), "no entries"))
	}
	if err := c.fatal(RuleTable, r.readTables()); err != nil {
		return err
	}
	next := r.used
	if r.sb.XattrTable != disk.NoTable {
		x, err := r.xattrs()
		if err := c.note(RuleXattrTable, "", err); err != nil {
			return err
		}
		if x != nil {
			if x.ids.count == 0 {
				c.findf(RuleXattrTable, "xattr table", int64(r.sb.XattrTable), "no entries")
			}
			c.indexEnd(x.ids, int64(r.sb.XattrTable)+disk.XattrHeadSize, next)
			next = x.values.start
		}
	}
	c.indexEnd(r.idTable, r.idTable.table.end, next)
	next = r.idTable.index[0]
	if t := r.exportTable; t != nil && len(t.index) > 0 {
		c.indexEnd(t, t.table.end, next)
		next = t.index[0]
	}
	if t := r.fragTable; t != nil {
		if t.table.end+int64(len(t.index))*disk.PositionSize > next {
			c.findf(RuleTable, t.table.name, t.table.end, "index reaches into the next table at %#x", next)
		}
		c.indexGaps(t, t.table.end)
	}
	return nil
}

// indexEnd checks the index of t, which stands at off.
func (c *checker) indexEnd(t *lookupTable, off, next int64) {
	if end := off + int64(len(t.index))*disk.PositionSize; end != next {
		c.findf(RuleIndexEnd, t.table.name, off, "index ends at %#x, next table starts at %#x", end, next)
	}
	c.indexGaps(t, t.table.end)
}

// indexGaps checks that the metadata blocks of a lookup table stand one behind
// the other.
func (c *checker) indexGaps(t *lookupTable, end int64) {
	for i, pos := range t.index {
		next := end
		if i+1 < len(t.index) {
			next = t.index[i+1]
		}
		if next-pos > disk.MetadataHeaderSize+disk.MetadataSize {
			c.findf(RuleIndexGap, t.table.name, pos, "%d bytes to the next block", next-pos)
		}
	}
}

// exportTable checks that the export table leads to all inodes.
func (c *checker) exportTable() error {
	t := c.r.exportTable
	if t == nil {
		return nil
	}
	var buf [disk.ExportSize]byte
	for i := range t.count {
		if i%1024 == 0 && c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		if err := t.read(c.r, buf[:], i); err != nil {
			return c.note(RuleExport, "", err)
		}
		ref := InodeRef(binary.LittleEndian.Uint64(buf[:]))
		if in := c.numbered(uint32(i + 1)); in != nil && in.ref != ref {
			c.findf(RuleExport, "export table", t.index[i*disk.ExportSize/disk.MetadataSize],
				"inode %d is at %#x, not %#x", i+1, in.ref, ref)
		}
	}
	return nil
}

// atEnd reports whether nothing follows in the table.
func (c *metaCursor) atEnd() bool {
	if c.block.data == nil {
		return c.pos.block >= c.table.end
	}
	return c.pos.off >= len(c.block.data) && c.block.next >= c.table.end
}
