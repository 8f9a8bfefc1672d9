package squashfs

import (
	"encoding/binary"
	"math"

	"hpcimg/squashfs/internal/disk"
)

// tableWriter turns a stream of records into metadata blocks. It writes them
// at once or, if the place of the table is not known yet, keeps them: tables
// are a few bytes for each entry.
type tableWriter struct {
	what   string
	enc    blockEncoder
	w      *imageWriter // or nil
	block  []byte       // not compressed yet, less than disk.MetadataSize
	out    [][]byte     // compressed blocks with their headers, cut anywhere
	size   uint64       // of the compressed blocks so far
	starts []uint64     // of the blocks, if written at once
	buf    []byte
}

// tablePiece is how much of a table is written at a time. Kept pieces are not
// copied into greater ones: that would double the memory they take.
const tablePiece = 128 << 10

// newTableWriter returns a writer to w or, if w is nil, one that keeps the
// blocks for copyTo.
func newTableWriter(what string, enc blockEncoder, w *imageWriter) *tableWriter {
	return &tableWriter{
		what:  what,
		enc:   enc,
		w:     w,
		block: make([]byte, 0, disk.MetadataSize),
		buf:   make([]byte, disk.MetadataSize+disk.MetadataSize/128+64),
	}
}

// ref returns the reference to the record that is added next.
func (t *tableWriter) ref() disk.Ref { return disk.NewRef(t.size, uint16(len(t.block))) }

// add appends a record, or several, or part of one.
func (t *tableWriter) add(record []byte) error {
	for len(record) > 0 {
		n := min(len(record), disk.MetadataSize-len(t.block))
		t.block = append(t.block, record[:n]...)
		record = record[n:]
		if len(t.block) == disk.MetadataSize {
			if err := t.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush ends the current block, if it has anything in it.
func (t *tableWriter) flush() error {
	if len(t.block) == 0 {
		return nil
	}
	data, err := t.enc.encode(t.buf, t.block)
	if err != nil {
		return err
	}
	raw := data == nil
	if raw {
		data = t.block
	}
	// Directories, listings and sets of attributes name blocks in 32 bits.
	if t.size > math.MaxUint32 {
		return &LimitError{What: "bytes in the " + t.what, Limit: math.MaxUint32}
	}
	t.starts = append(t.starts, t.size)
	t.size += uint64(disk.MetadataHeaderSize + len(data))
	var header [disk.MetadataHeaderSize]byte
	binary.LittleEndian.PutUint16(header[:], disk.MetadataHeader(len(data), raw))
	if err := t.put(header[:]); err != nil {
		return err
	}
	err = t.put(data)
	t.block = t.block[:0]
	return err
}

// put appends compressed bytes.
func (t *tableWriter) put(b []byte) error {
	for len(b) > 0 {
		last := len(t.out) - 1
		if last < 0 || len(t.out[last]) == cap(t.out[last]) {
			if last >= 0 && t.w != nil {
				if err := t.copyTo(t.w); err != nil {
					return err
				}
				t.out[0] = t.out[0][:0]
				continue
			}
			t.out = append(t.out, make([]byte, 0, tablePiece))
			last++
		}
		p := t.out[last]
		n := min(len(b), cap(p)-len(p))
		t.out[last] = append(p, b[:n]...)
		b = b[n:]
	}
	return nil
}

// end ends the table, and writes what has not been written if its place is
// known.
func (t *tableWriter) end() error {
	err := t.flush()
	if err == nil && t.w != nil {
		err = t.copyTo(t.w)
		t.out = nil
	}
	return err
}

// copyTo writes the pieces to w.
func (t *tableWriter) copyTo(w *imageWriter) error {
	for _, p := range t.out {
		if err := w.write(p); err != nil {
			return err
		}
	}
	return nil
}
