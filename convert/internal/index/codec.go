package index

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// ErrFormat is stored data that is damaged or of another version.
var ErrFormat = errors.New("malformed index")

const (
	// maxRaw bounds the decompressed size, maxRatio what a hostile file can make of little.
	maxRaw   = 1 << 30
	maxRatio = 1000
)

// pack compresses raw behind a header.
func pack(magic string, raw []byte) ([]byte, error) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(raw)/3+64)
	out = append(out, magic...)
	out = binary.AppendUvarint(out, uint64(len(raw)))
	return e.EncodeAll(raw, out), e.Close()
}

func unpack(magic string, b []byte) ([]byte, error) {
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: it does not begin with %q", ErrFormat, magic)
	}
	b = b[len(magic):]
	size, n := binary.Uvarint(b)
	if n <= 0 || size > maxRaw || size > uint64(len(b))*maxRatio {
		return nil, fmt.Errorf("%w: size", ErrFormat)
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxRaw))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	raw, err := d.DecodeAll(b[n:], make([]byte, 0, size))
	if err != nil || uint64(len(raw)) != size {
		return nil, fmt.Errorf("%w: %d bytes, not %d: %w", ErrFormat, len(raw), size, errors.Join(err))
	}
	return raw, nil
}

// writer appends values.
type writer struct{ b []byte }

// newWriter returns a writer of about so many bytes: to grow a large buffer leaves several times as much behind.
func newWriter(size int) *writer { return &writer{b: make([]byte, 0, size+1024)} }

func (w *writer) uint(v uint64)   { w.b = binary.AppendUvarint(w.b, v) }
func (w *writer) int(v int64)     { w.b = binary.AppendVarint(w.b, v) }
func (w *writer) string(s string) { w.uint(uint64(len(s))); w.b = append(w.b, s...) }
func (w *writer) bytes(p []byte)  { w.b = append(w.b, p...) }

// reader takes them out again. After a first error, which err keeps, all values are zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrFormat, what)
	}
	r.b = nil
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail("number")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) uint32() uint32 {
	v := r.uint()
	if v > 1<<32-1 {
		r.fail("number of more than 32 bits")
		return 0
	}
	return uint32(v)
}

func (r *reader) int() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail("number")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.fail("string")
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) string() string {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.fail("string")
		return ""
	}
	return string(r.bytes(int(n)))
}

// count reads a number of items that take at least size bytes each, which bounds it.
func (r *reader) count(size int) int {
	n := r.uint()
	if n > uint64(len(r.b)/size) {
		r.fail("count")
		return 0
	}
	return int(n)
}

func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail("bytes left over")
	}
	return r.err
}
