package estargz

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/flate"
)

// compressor is what one worker needs.
type compressor struct {
	data, text *flate.Writer
	out        appender
}

func newCompressor(level int) (*compressor, error) {
	c := &compressor{}
	data, text := level, level
	if level == 0 {
		data, text = dataLevel, textLevel
	}
	var err error
	if c.data, err = flate.NewWriter(&c.out, data); err != nil {
		return nil, err
	}
	c.text = c.data
	if text != data {
		c.text, err = flate.NewWriter(&c.out, text)
	}
	return c, err
}

// batch compresses b and hashes its chunks. Nothing can fail: it goes from memory to memory.
func (c *compressor) batch(b *batch) {
	c.out.b = b.out
	if b.piece.toc {
		c.text.Reset(&c.out)
		_, _ = c.text.Write(b.raw)
		if b.piece.last {
			_ = c.text.Close()
		} else {
			_ = c.text.Flush()
		}
	}
	for i := range b.members {
		m := &b.members[i]
		m.offset = len(c.out.b)
		contents := b.raw[m.start : m.start+m.contents]
		w := c.data
		if isText(contents) {
			w = c.text
		}
		c.member(w, b.raw[m.start:m.end])
		if m.contents > 0 {
			m.chunk = sha256.Sum256(contents)
		}
	}
	b.out, c.out.b = c.out.b, nil
}

func (c *compressor) member(w *flate.Writer, raw []byte) {
	c.out.b = append(c.out.b, gzipHeader()...)
	w.Reset(&c.out)
	_, _ = w.Write(raw)
	_ = w.Close()
	c.out.b = binary.LittleEndian.AppendUint32(c.out.b, crc32.ChecksumIEEE(raw))
	c.out.b = binary.LittleEndian.AppendUint32(c.out.b, uint32(len(raw)))
}

// isText guesses whether contents repeat themselves in long and varied ways, so that a longer search finds more.
func isText(contents []byte) bool {
	const enough = 4 << 10
	return bytes.IndexByte(contents[:min(len(contents), enough)], 0) < 0
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
