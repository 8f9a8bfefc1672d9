package sif

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"hpcimg/sif/internal/disk"
)

// maxDescriptors bounds the table to 600 KB. Container images have 48 slots; an OCI-SIF has one per blob and some spare.
const maxDescriptors = 1024

func readHeader(r io.ReaderAt, size int64) (*disk.Header, error) {
	var raw [disk.HeaderSize]byte
	if size < disk.HeaderSize {
		return nil, headerError("file of %d bytes is shorter than the header", size)
	}
	if err := readFull(r, raw[:], 0); err != nil {
		return nil, readError("global header", 0, err)
	}
	h := disk.DecodeHeader(&raw)
	total, free := h.DescriptorsTotal, h.DescriptorsFree
	switch {
	case string(h.Magic[:]) != disk.Magic:
		return nil, headerError("magic is %q", h.Magic[:])
	case string(h.Version[:]) != disk.Version:
		return nil, headerError("version %q: %w", bytes.TrimRight(h.Version[:], "\x00"), errors.ErrUnsupported)
	case total < 0 || free < 0 || free > total:
		return nil, headerError("%d of %d descriptors free", free, total)
	case total > maxDescriptors:
		return nil, &LimitError{What: "number of descriptors", Limit: maxDescriptors}
	case h.DescriptorsSize != total*disk.DescriptorSize:
		return nil, headerError("%d descriptors in a table of %d bytes", total, h.DescriptorsSize)
	case h.DescriptorsOffset < disk.HeaderSize || !inside(h.DescriptorsOffset, h.DescriptorsSize, size):
		return nil, headerError("descriptor table at %d is outside of the file", h.DescriptorsOffset)
	case h.DataOffset < h.DescriptorsOffset+h.DescriptorsSize || !inside(h.DataOffset, h.DataSize, size):
		return nil, headerError("data section at %d with %d bytes is outside of the file", h.DataOffset, h.DataSize)
	}
	return &h, nil
}

func headerError(format string, args ...any) error {
	return &FormatError{Structure: "global header", Err: fmt.Errorf(format, args...)}
}

// inside reports whether size bytes at offset lie in a file of fileSize bytes. Nothing here can wrap.
func inside(offset, size, fileSize int64) bool {
	return offset >= 0 && size >= 0 && offset <= fileSize && size <= fileSize-offset
}

func readTable(r io.ReaderAt, h *disk.Header) ([]disk.Descriptor, error) {
	raw := make([]byte, h.DescriptorsSize)
	if err := readFull(r, raw, h.DescriptorsOffset); err != nil {
		return nil, readError("descriptor table", h.DescriptorsOffset, err)
	}
	table := make([]disk.Descriptor, h.DescriptorsTotal)
	for i := range table {
		table[i] = disk.DecodeDescriptor((*[disk.DescriptorSize]byte)(raw[i*disk.DescriptorSize:]))
	}
	return table, nil
}

// readFull is io.ReadFull for a ReaderAt. A short read of a place that the size promised is damage.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readError keeps I/O errors what they are: only a file that ends early is a damaged one.
func readError(structure string, offset int64, err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &FormatError{Structure: structure, Offset: offset, Err: err}
	}
	return fmt.Errorf("sif: %s: %w", structure, err)
}

// checkTable checks every descriptor, each by itself and all against each other.
func checkTable(h *disk.Header, table []disk.Descriptor, size int64) error {
	ids := make(map[uint32]bool, len(table))
	var spans []span
	used := int64(0)
	for i := range table {
		d := &table[i]
		if d.Used == 0 {
			continue
		}
		used++
		fail := func(format string, args ...any) error {
			return &FormatError{
				Structure: fmt.Sprintf("descriptor %d", i),
				Offset:    h.DescriptorsOffset + int64(i)*disk.DescriptorSize,
				Err:       fmt.Errorf(format, args...),
			}
		}
		if err := checkDescriptor(d, h, size); err != nil {
			return fail("%w", err)
		}
		if ids[d.ID] {
			return fail("ID %d is taken", d.ID)
		}
		ids[d.ID] = true
		if d.Size > 0 {
			spans = append(spans, span{id: d.ID, start: d.Offset, end: d.Offset + d.Size})
		}
	}
	if free := h.DescriptorsTotal - used; free != h.DescriptorsFree {
		return headerError("%d descriptors are free, not %d", free, h.DescriptorsFree)
	}
	return checkOverlap(spans)
}

func checkDescriptor(d *disk.Descriptor, h *disk.Header, size int64) error {
	switch {
	case d.Used != 1:
		return fmt.Errorf("in-use flag is %d", d.Used)
	case d.ID == 0 || d.ID > math.MaxInt32 || d.ID&disk.GroupMask != 0:
		return fmt.Errorf("ID %#x", d.ID)
	case d.GroupID&disk.GroupMask != disk.GroupMask:
		return fmt.Errorf("group field %#x lacks its mask", d.GroupID)
	case d.LinkedID&disk.GroupMask != 0 && d.LinkedID&disk.GroupMask != disk.GroupMask:
		return fmt.Errorf("link field %#x", d.LinkedID)
	case d.LinkedID == d.ID:
		return errors.New("object is linked to itself")
	case !inside(d.Offset, d.Size, size):
		return fmt.Errorf("object of %d bytes at %d is outside of the file", d.Size, d.Offset)
	case d.Offset < h.DataOffset && d.Size > 0:
		return fmt.Errorf("object at %d is outside of the data section at %d", d.Offset, h.DataOffset)
	}
	return nil
}

type span struct {
	id         uint32
	start, end int64
}

func checkOverlap(spans []span) error {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	for i := 1; i < len(spans); i++ {
		if a, b := spans[i-1], spans[i]; b.start < a.end {
			return &FormatError{
				Structure: fmt.Sprintf("data object %d", b.id),
				Offset:    b.start,
				Err:       fmt.Errorf("overlaps object %d, which ends at %#x", a.id, a.end),
			}
		}
	}
	return nil
}
