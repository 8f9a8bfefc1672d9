package convert

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"hpcimg/convert/internal/index"
	"hpcimg/convert/internal/layer"
	"hpcimg/squashfs"
)

// keptEntries are the entries of a large image between the tree that they come from and the builder that they go to, which need not be in memory
// together: in a temporary file.
type keptEntries struct {
	file *tempFile
	w    *bufio.Writer
	size int64

	// The frame that is being filled.
	entries  int
	encoder  layer.Encoder
	encoded  []byte
	contents []byte
}

// A frame is so long that what is in front of each, and that paths begin anew, does not matter.
const (
	keptFrame  = 64 << 10
	keptHeader = 16 // number of entries, bytes of entries and of contents, CRC-32C of both
)

var errKept = fmt.Errorf("%w: entries are not what has been written", index.ErrFormat)

func newKeptEntries(dir string) (*keptEntries, error) {
	f, err := newTempFile(dir)
	if err != nil {
		return nil, err
	}
	return &keptEntries{file: f, w: bufio.NewWriterSize(f, keptFrame)}, nil
}

// Close removes the file.
func (k *keptEntries) Close() error { return k.file.Close() }

func (k *keptEntries) add(e *layer.Entry, c *squashfs.Content, pack squashfs.PackID) error {
	k.entries++
	k.encoded = k.encoder.Append(k.encoded, e)
	if e.Kind == layer.File {
		if c == nil {
			k.contents = binary.AppendUvarint(k.contents, 0)
		} else {
			k.contents = binary.AppendUvarint(k.contents, 1+uint64(pack))
			k.contents = index.AppendContent(k.contents, c)
		}
	}
	if len(k.encoded)+len(k.contents) < keptFrame {
		return nil
	}
	return k.flush()
}

// flush ends the frame.
func (k *keptEntries) flush() error {
	head := make([]byte, 0, keptHeader)
	sum := uint32(0)
	for _, n := range []int{k.entries, len(k.encoded), len(k.contents)} {
		head = binary.LittleEndian.AppendUint32(head, uint32(n))
	}
	for _, part := range [][]byte{head, k.encoded, k.contents} {
		sum = crc32.Update(sum, castagnoli(), part)
	}
	head = binary.LittleEndian.AppendUint32(head, sum)
	for _, part := range [][]byte{head, k.encoded, k.contents} {
		if _, err := k.w.Write(part); err != nil {
			return err
		}
		k.size += int64(len(part))
	}
	k.entries, k.encoder, k.encoded, k.contents = 0, layer.Encoder{}, k.encoded[:0], k.contents[:0]
	return nil
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// all calls add for all entries, in their order.
func (k *keptEntries) all(ctx context.Context, add func(*layer.Entry, *squashfs.Content, squashfs.PackID) error) error {
	if err := k.flush(); err != nil {
		return err
	}
	if err := k.w.Flush(); err != nil {
		return err
	}
	if _, err := k.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r := bufio.NewReaderSize(k.file, keptFrame)
	var frame []byte
	var decoder layer.Decoder
	left := k.size
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if left == 0 {
			return nil
		}
		n, entries, contents, err := readKept(r, &frame, left)
		if err != nil {
			return fmt.Errorf("%s: %w", k.file.Name(), cmpEOF(err))
		}
		left -= keptHeader + int64(len(entries)+len(contents))
		decoder.Reset(entries)
		for range n {
			e := decoder.Next()
			var c *squashfs.Content
			var pack squashfs.PackID
			if e.Kind == layer.File {
				c, pack, contents = cutKept(contents)
			}
			if err := add(e, c, pack); err != nil {
				return err
			}
		}
	}
}

// readKept reads a frame, which is not longer than limit, into buf, which grows if need be.
func readKept(r io.Reader, buf *[]byte, limit int64) (n int, entries, contents []byte, err error) {
	var head [keptHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, nil, err
	}
	word := func(i int) int { return int(binary.LittleEndian.Uint32(head[4*i:])) }
	size := word(1) + word(2)
	if keptHeader+int64(size) > limit {
		return 0, nil, nil, errKept
	}
	if cap(*buf) < size {
		*buf = make([]byte, size)
	}
	b := (*buf)[:size]
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, nil, nil, err
	}
	sum := crc32.Update(crc32.Checksum(head[:12], castagnoli()), castagnoli(), b)
	if uint32(word(3)) != sum {
		return 0, nil, nil, errKept
	}
	return word(0), b[:word(1)], b[word(1):], nil
}

func cutKept(b []byte) (*squashfs.Content, squashfs.PackID, []byte) {
	tag, n := binary.Uvarint(b)
	if b = b[n:]; tag == 0 {
		return nil, 0, b
	}
	c, b := index.CutContent(b)
	return c, squashfs.PackID(tag - 1), b
}
