package estargz

import (
	"crypto/sha256"
	"io"

	"hpcimg/convert/internal/layer"
)

const (
	batchSize = 256 << 10 // contents of small files are compressed together, to spare the workers the hand-over
	maxTail   = 4 << 20   // of headers in a member
	pieceSize = 512 << 10 // of the TOC
	blockSize = 512       // of tar
)

// batch is a part of the tar stream that goes through the pipeline at once.
type batch struct {
	raw     []byte
	members []member
	entries []entry // whose headers are in raw
	out     []byte  // raw, compressed
	piece   piece
	ready   chan struct{} // has an element when out is complete
}

// member is a part of a batch that becomes a gzip member: a chunk of a file or nothing, padding, headers.
type member struct {
	start, end int // in raw
	contents   int // bytes of the chunk
	entries    int // headers
	first      bool
	last       bool              // of the file
	offset     int               // in out
	chunk      [sha256.Size]byte // digest of the chunk
	file       [sha256.Size]byte // of the file, if this is the last of several chunks
}

// piece says which part of the TOC's member a batch is.
type piece struct{ toc, first, last bool }

func (b *batch) reset() {
	clear(b.entries) // for the strings
	b.raw, b.members, b.entries, b.out, b.piece = b.raw[:0], b.members[:0], b.entries[:0], b.out[:0], piece{}
}

// cutter cuts a tar stream into members, and these into batches.
type cutter struct {
	*pipeline
	chunk   int
	batch   *batch
	written int64 // bytes of the tar stream
}

// current is the member that is being filled.
func (c *cutter) current() *member { return &c.batch.members[len(c.batch.members)-1] }

// cut begins a member.
func (c *cutter) cut() error {
	if c.batch != nil {
		c.current().end = len(c.batch.raw)
		if len(c.batch.raw) >= batchSize {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
	if c.batch == nil {
		b, err := c.get()
		if err != nil {
			return err
		}
		c.batch = b
	}
	at := len(c.batch.raw)
	c.batch.members = append(c.batch.members, member{start: at, end: at})
	return nil
}

// flush hands the batch on.
func (c *cutter) flush() error {
	b := c.batch
	c.batch = nil
	c.written += int64(len(b.raw))
	return c.submit(b)
}

// header adds a tar header and its entry in the TOC.
func (c *cutter) header(h *header) error {
	if c.batch == nil || len(c.batch.raw)-c.current().start-c.current().contents > maxTail {
		if err := c.cut(); err != nil {
			return err
		}
	}
	raw, err := h.appendTo(c.batch.raw)
	if err != nil {
		return &layer.EntryError{Name: h.name, Err: err}
	}
	c.batch.raw = raw
	c.batch.entries = append(c.batch.entries, h.entry())
	c.current().entries++
	return nil
}

// payload adds the contents of the last header.
func (c *cutter) payload(r io.Reader, size int64) error {
	for done := int64(0); done < size; {
		if err := c.cut(); err != nil {
			return err
		}
		b, m := c.batch, c.current()
		n := int(min(size-done, int64(c.chunk)))
		m.first, m.last = done == 0, done+int64(n) == size
		at := len(b.raw)
		b.raw = grow(b.raw, n)
		if _, err := io.ReadFull(r, b.raw[at:]); err != nil {
			if err == io.EOF || err == io.ErrUnexpectedEOF { // of the reader of tar, which knows the size as we do
				err = malformed("contents end before their size: %w", io.ErrUnexpectedEOF)
			}
			return err
		}
		m.contents = n
		done += int64(n)
	}
	if rest := int(size % blockSize); rest > 0 {
		at := len(c.batch.raw)
		c.batch.raw = grow(c.batch.raw, blockSize-rest)
		clear(c.batch.raw[at:])
	}
	return nil
}

// grow returns b with n more bytes, which may be anything.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b[:len(b)+n]
	}
	c := make([]byte, len(b)+n, len(b)+n+batchSize)
	copy(c, b)
	return c
}
