package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"hpcimg/squashfs/internal/disk"
)

// metaTable is a region of the image that consists of metadata blocks.
type metaTable struct {
	name       string
	start, end int64
}

// maxRaw bounds the uncompressed bytes from pos to the table's end, by the
// least that a metadata block takes on disk.
func (t *metaTable) maxRaw(pos int64) int64 {
	return (t.end - pos) / (disk.MetadataHeaderSize + 1) * disk.MetadataSize
}

// readFull fills p from offset off of the image.
func (r *Reader) readFull(p []byte, off int64) error {
	if off < 0 || off > r.size-int64(len(p)) {
		return io.ErrUnexpectedEOF
	}
	n, err := r.src.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("squashfs: read at %#x: %w", off, err)
}

// metadataBlock returns the metadata block whose header is at pos.
func (r *Reader) metadataBlock(t *metaTable, pos int64) (cacheBlock, error) {
	if pos < t.start || pos >= t.end {
		return cacheBlock{}, formatErrorf(t.name, pos, "metadata block outside the table")
	}
	return r.metaCache.fetch(cacheKey{offset: pos}, func() (cacheBlock, error) {
		return r.loadMetadata(t, pos)
	})
}

func (r *Reader) loadMetadata(t *metaTable, pos int64) (cacheBlock, error) {
	buf := r.scratch.get(disk.MetadataHeaderSize + disk.MetadataSize)
	defer r.scratch.put(buf)
	// One read for header and contents: the source may be far away.
	avail := min(t.end-pos, int64(len(buf)))
	if avail < disk.MetadataHeaderSize {
		return cacheBlock{}, formatError(t.name, pos, io.ErrUnexpectedEOF)
	}
	if err := r.readFull(buf[:avail], pos); err != nil {
		return cacheBlock{}, err
	}
	n, raw := disk.DecodeMetadataHeader(binary.LittleEndian.Uint16(buf))
	if n == 0 || n > disk.MetadataSize {
		return cacheBlock{}, formatErrorf(t.name, pos, "metadata block of %d stored bytes", n)
	}
	if int64(disk.MetadataHeaderSize+n) > avail {
		return cacheBlock{}, formatErrorf(t.name, pos, "metadata block of %d bytes passes the end of the table", n)
	}
	stored := buf[disk.MetadataHeaderSize : disk.MetadataHeaderSize+n]
	next := pos + int64(disk.MetadataHeaderSize+n)
	if raw {
		return cacheBlock{data: append([]byte(nil), stored...), next: next}, nil
	}
	out := make([]byte, disk.MetadataSize)
	k, err := r.decodeBlock(out, stored, t.name, pos)
	if err != nil {
		return cacheBlock{}, err
	}
	if k == 0 {
		return cacheBlock{}, formatErrorf(t.name, pos, "empty metadata block")
	}
	if k < len(out)/2 {
		return cacheBlock{data: append([]byte(nil), out[:k]...), next: next}, nil
	}
	return cacheBlock{data: out[:k], next: next}, nil
}

// decodeBlock decompresses src into dst, which bounds the result.
func (r *Reader) decodeBlock(dst, src []byte, structure string, off int64) (int, error) {
	if r.inspect != nil {
		r.inspect(src, structure, off)
	}
	n, err := safeDecode(r.decoder, dst, src)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, errors.ErrUnsupported):
		return 0, fmt.Errorf("squashfs: %s at %#x: %w", structure, off, err)
	}
	return 0, formatErrorf(structure, off, "%v: %w", r.compression, err)
}

// metaPos is a place in a table: a metadata block and an offset in its
// uncompressed bytes.
type metaPos struct {
	block int64 // absolute
	off   int
}

// metaCursor reads the uncompressed bytes of a table, from block to block.
type metaCursor struct {
	r     *Reader
	table *metaTable
	pos   metaPos
	block cacheBlock // at pos.block; data is nil before the first read
}

// cursor returns a cursor at block, relative to the table's start, and offset.
func (r *Reader) cursor(t *metaTable, block uint64, off int) (metaCursor, error) {
	if block >= uint64(t.end-t.start) || off > disk.MetadataSize {
		return metaCursor{}, formatErrorf(t.name, t.start, "reference to %#x:%#x outside the table", block, off)
	}
	return metaCursor{r: r, table: t, pos: metaPos{t.start + int64(block), off}}, nil
}

// cursorAt returns a cursor at a place that an earlier cursor had reached.
func (r *Reader) cursorAt(t *metaTable, p metaPos) metaCursor {
	return metaCursor{r: r, table: t, pos: p}
}

// load makes at least one byte available, and returns all that the current
// block still has.
func (c *metaCursor) load() ([]byte, error) {
	if c.block.data == nil {
		b, err := c.r.metadataBlock(c.table, c.pos.block)
		if err != nil {
			return nil, err
		}
		c.block = b
	}
	for c.pos.off >= len(c.block.data) {
		if c.pos.off > len(c.block.data) {
			return nil, formatErrorf(c.table.name, c.pos.block, "offset %d in a metadata block of %d bytes",
				c.pos.off, len(c.block.data))
		}
		b, err := c.r.metadataBlock(c.table, c.block.next)
		if err != nil {
			return nil, err
		}
		c.pos = metaPos{c.block.next, 0}
		c.block = b
	}
	return c.block.data[c.pos.off:], nil
}

// read fills p.
func (c *metaCursor) read(p []byte) error {
	for len(p) > 0 {
		b, err := c.load()
		if err != nil {
			return err
		}
		n := copy(p, b)
		p = p[n:]
		c.pos.off += n
	}
	return nil
}

// skip passes over n bytes.
func (c *metaCursor) skip(n int64) error {
	for n > 0 {
		b, err := c.load()
		if err != nil {
			return err
		}
		k := min(n, int64(len(b)))
		n -= k
		c.pos.off += int(k)
	}
	return nil
}

// fail returns a format error at the cursor's block.
func (c *metaCursor) fail(structure, format string, args ...any) error {
	return formatErrorf(structure, c.pos.block, format, args...)
}
