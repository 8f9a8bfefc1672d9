package squashfs

import (
	"encoding/binary"

	"hpcimg/squashfs/internal/disk"
)

// tableWriter turns a stream of records into metadata blocks, which it keeps
// in memory: tables are a few bytes for each entry.
type tableWriter struct {
	enc    blockEncoder
	block  []byte   // not compressed yet, less than disk.MetadataSize
	out    []byte   // compressed blocks with their headers
	starts []uint64 // of the blocks in out
	buf    []byte
}

func newTableWriter(enc blockEncoder) *tableWriter {
	return &tableWriter{
		enc:   enc,
		block: make([]byte, 0, disk.MetadataSize),
		buf:   make([]byte, disk.MetadataSize+disk.MetadataSize/128+64),
	}
}

// ref returns the reference to the record that is added next.
func (t *tableWriter) ref() disk.Ref {
	return disk.NewRef(uint64(len(t.out)), uint16(len(t.block)))
}

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
	t.starts = append(t.starts, uint64(len(t.out)))
	t.out = binary.LittleEndian.AppendUint16(t.out, disk.MetadataHeader(len(data), raw))
	t.out = append(t.out, data...)
	t.block = t.block[:0]
	return nil
}
