package export

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Compression is how the blob of a layer is stored.
type Compression string

// The compressions of layers.
const (
	Gzip Compression = "gzip" // one member, so that readers that know no more get all of it
	Zstd Compression = "zstd" // a frame for each 2 MiB
	None Compression = "none"
)

// MediaType returns the OCI media type of layers that are stored so.
func (c Compression) MediaType() string {
	switch c {
	case Gzip:
		return ocispec.MediaTypeImageLayerGzip
	case Zstd:
		return ocispec.MediaTypeImageLayerZstd
	}
	return ocispec.MediaTypeImageLayer
}

const (
	gzipBlock   = 1 << 20
	zstdBlock   = 2 << 20 // frames know nothing of each other: larger ones find more
	window      = 32 << 10
	defaultGzip = 6
	defaultZstd = 3
)

// blockSize returns how much of a tar stream is compressed at a time. The blob depends on it.
func (c Compression) blockSize() int {
	if c == Zstd {
		return zstdBlock
	}
	return gzipBlock
}

// compressor compresses one block at a time and appends the result to dst. Some use what stands before the block. The result
// depends on nothing else.
type compressor interface {
	compress(dst, before, block []byte) ([]byte, error)
}

// newCompressor returns a compressor. Level 0 is the default.
func newCompressor(c Compression, level int) (compressor, error) {
	outside := func(most int) error {
		return fmt.Errorf("%w: %s level %d is not between 1 and %d", fs.ErrInvalid, c, level, most)
	}
	switch c {
	case Gzip:
		if level == 0 {
			level = defaultGzip
		}
		if level < 1 || level > 9 {
			return nil, outside(9)
		}
		return &deflate{level: level}, nil
	case Zstd:
		if level == 0 {
			level = defaultZstd
		}
		if level < 1 || level > 22 {
			return nil, outside(22)
		}
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
			zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdBlock), zstd.WithLowerEncoderMem(true))
		return frames{e}, err
	case None:
		return plain{}, nil
	}
	return nil, fmt.Errorf("compression %q: %w", c, errors.ErrUnsupported)
}

// deflate makes blocks of one deflate stream, each ended by a flush.
type deflate struct {
	level int
	w     *flate.Writer
	zeros []byte // what becomes of a block of zeros behind zeros: sparse files have many
}

func (d *deflate) compress(dst, before, block []byte) ([]byte, error) {
	hole := len(block) == gzipBlock && len(before) == window && isZero(before) && isZero(block)
	if hole && d.zeros != nil {
		return append(dst, d.zeros...), nil
	}
	out := &appender{dst}
	if d.w == nil {
		w, err := flate.NewWriterDict(out, d.level, before)
		if err != nil {
			return nil, err
		}
		d.w = w
	} else {
		d.w.ResetDict(out, before)
	}
	if _, err := d.w.Write(block); err != nil {
		return nil, err
	}
	err := d.w.Flush()
	if hole {
		d.zeros = bytes.Clone(out.b[len(dst):])
	}
	return out.b, err
}

func isZero(p []byte) bool {
	var zeros [4096]byte
	for len(p) > len(zeros) {
		if !bytes.Equal(p[:len(zeros)], zeros[:]) {
			return false
		}
		p = p[len(zeros):]
	}
	return bytes.Equal(p, zeros[:len(p)])
}

type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}

// frames makes a zstd frame of each block.
type frames struct{ e *zstd.Encoder }

func (f frames) compress(dst, _, block []byte) ([]byte, error) { return f.e.EncodeAll(block, dst), nil }

type plain struct{}

func (plain) compress(dst, _, block []byte) ([]byte, error) { return append(dst, block...), nil }
