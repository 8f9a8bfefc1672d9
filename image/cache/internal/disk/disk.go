package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The constants of the layout.
const (
	Align      = 4096
	ChunkSize  = 1 << 20
	MaxMeta    = 256 << 20
	MaxKey     = 160
	MaxKind    = 16
	FooterSize = 256

	magic     = "hpcimgCE"
	version   = 1
	sumOffset = 224
	maxData   = 1 << 56 // far beyond any file, and sums of sizes do not overflow
)

// ErrFormat is a file that does not have this layout.
var ErrFormat = errors.New("not an entry")

// Footer is what the end of the file says.
type Footer struct {
	Kind, Key      string
	Size, MetaSize int64
}

// Tail is everything behind the data.
type Tail struct {
	Meta []byte
	Sums []byte // 32 bytes a chunk
}

// Chunks returns how many chunks size bytes of data have.
func Chunks(size int64) int64 { return (size + ChunkSize - 1) / ChunkSize }

// Padding returns how many zeros follow the data.
func Padding(size int64) int64 { return -size & (Align - 1) }

// TailSize returns the number of bytes behind the data.
func (f Footer) TailSize() int64 {
	return Padding(f.Size) + f.MetaSize + sha256.Size*Chunks(f.Size) + FooterSize
}

func (f Footer) check() error {
	switch {
	case f.Size < 0 || f.Size > maxData:
		return fmt.Errorf("%w: %d bytes of data", ErrFormat, f.Size)
	case f.MetaSize < 0 || f.MetaSize > MaxMeta:
		return fmt.Errorf("%w: %d bytes of metadata", ErrFormat, f.MetaSize)
	case len(f.Key) > MaxKey || len(f.Kind) > MaxKind:
		return fmt.Errorf("%w: a name of %d bytes", ErrFormat, max(len(f.Key), len(f.Kind)))
	}
	return nil
}

// ParseFooter reads the last FooterSize bytes of a file of fileSize bytes. That their sum is right is left to ParseTail.
func ParseFooter(b []byte, fileSize int64) (Footer, error) {
	if len(b) != FooterSize || string(b[:8]) != magic {
		return Footer{}, fmt.Errorf("%w: no footer", ErrFormat)
	}
	le := binary.LittleEndian
	if v, chunk := le.Uint32(b[8:]), le.Uint32(b[12:]); v != version || chunk != ChunkSize {
		return Footer{}, fmt.Errorf("%w: version %d with chunks of %d bytes", ErrFormat, v, chunk)
	}
	f := Footer{
		Size:     int64(le.Uint64(b[16:])),
		MetaSize: int64(le.Uint64(b[24:])),
		Kind:     string(bytes.TrimRight(b[32:48], "\x00")),
		Key:      string(bytes.TrimRight(b[48:208], "\x00")),
	}
	if err := f.check(); err != nil {
		return Footer{}, err
	}
	if f.Size+f.TailSize() != fileSize {
		return Footer{}, fmt.Errorf("%w: a file of %d bytes should have %d", ErrFormat, fileSize, f.Size+f.TailSize())
	}
	if !zero(b[208:sumOffset]) {
		return Footer{}, fmt.Errorf("%w: footer", ErrFormat)
	}
	return f, nil
}

// ParseTail checks everything behind the data against the footer's sum. The result refers to b, which holds f.TailSize() bytes.
func ParseTail(f Footer, b []byte) (Tail, error) {
	if err := f.check(); err != nil || int64(len(b)) != f.TailSize() {
		return Tail{}, fmt.Errorf("%w: short", ErrFormat)
	}
	end := len(b) - FooterSize + sumOffset
	if sum := sha256.Sum256(b[:end]); !bytes.Equal(sum[:], b[end:]) {
		return Tail{}, fmt.Errorf("%w: metadata has another SHA-256", ErrFormat)
	}
	pad := Padding(f.Size)
	if !zero(b[:pad]) {
		return Tail{}, fmt.Errorf("%w: padding", ErrFormat)
	}
	sums := pad + f.MetaSize
	return Tail{
		Meta: b[pad:sums:sums],
		Sums: b[sums : len(b)-FooterSize : len(b)-FooterSize],
	}, nil
}

// WriteTail writes everything behind the data to w, where the data ends.
func WriteTail(w io.Writer, f Footer, t Tail) error {
	f.MetaSize = int64(len(t.Meta))
	if err := f.check(); err != nil {
		return err
	}
	if int64(len(t.Sums)) != sha256.Size*Chunks(f.Size) {
		return fmt.Errorf("%w: %d bytes of sums for %d of data", ErrFormat, len(t.Sums), f.Size)
	}
	b := make([]byte, FooterSize)
	copy(b, magic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], version)
	le.PutUint32(b[12:], ChunkSize)
	le.PutUint64(b[16:], uint64(f.Size))
	le.PutUint64(b[24:], uint64(f.MetaSize))
	copy(b[32:48], f.Kind)
	copy(b[48:208], f.Key)

	h := sha256.New()
	for _, part := range [][]byte{make([]byte, Padding(f.Size)), t.Meta, t.Sums, b[:sumOffset]} {
		h.Write(part)
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	_, err := w.Write(h.Sum(nil))
	return err
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
