package estargz

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/flate"
)

// compressor is what one worker needs.
type compressor struct {
	flate *flate.Writer
	out   appender
}

func newCompressor(level int) (*compressor, error) {
	c := &compressor{}
	var err error
	c.flate, err = flate.NewWriter(&c.out, level)
	return c, err
}

// batch compresses b and hashes its chunks. Nothing can fail: it goes from memory to memory.
func (c *compressor) batch(b *batch) {
	c.out.b = b.out
	if b.piece.toc {
		c.flate.Reset(&c.out)
		_, _ = c.flate.Write(b.raw)
		if b.piece.last {
			_ = c.flate.Close()
		} else {
			_ = c.flate.Flush()
		}
	}
	for i := range b.members {
		m := &b.members[i]
		m.offset = len(c.out.b)
		c.member(b.raw[m.start:m.end])
		if m.contents > 0 {
			m.chunk = sha256.Sum256(b.raw[m.start : m.start+m.contents])
		}
	}
	b.out, c.out.b = c.out.b, nil
}

func (c *compressor) member(raw []byte) {
	c.out.b = append(c.out.b, gzipHeader()...)
	c.flate.Reset(&c.out)
	_, _ = c.flate.Write(raw)
	_ = c.flate.Close()
	c.out.b = binary.LittleEndian.AppendUint32(c.out.b, crc32.ChecksumIEEE(raw))
	c.out.b = binary.LittleEndian.AppendUint32(c.out.b, uint32(len(raw)))
}

// gzipHeader is that of a member without a name or a time.
func gzipHeader() []byte { return []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff} }

// footer returns the last member of a blob whose TOC begins at offset. It is empty and has the offset in its extra field.
func footer(offset int64) []byte {
	b := []byte{0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff}
	field := fmt.Sprintf("%016xSTARGZ", offset)
	b = binary.LittleEndian.AppendUint16(b, uint16(4+len(field)))
	b = append(b, 'S', 'G')
	b = binary.LittleEndian.AppendUint16(b, uint16(len(field)))
	b = append(b, field...)
	b = append(b, 1, 0, 0, 0xff, 0xff)       // the last deflate block, stored, of no bytes
	return append(b, 0, 0, 0, 0, 0, 0, 0, 0) // CRC-32 and size
}
