package squashfs

import (
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"hpcimg/internal/inflate"
	"hpcimg/squashfs/internal/disk"
)

// errDecodedSize says that a block holds more than it may. Decoders stop
// there: a block never expands beyond the buffer that the caller sized.
var errDecodedSize = errors.New("decompresses to more bytes than it may")

// blockDecoder decompresses whole blocks. decode fills dst from src and
// returns the number of bytes, at most len(dst). It may use up to decodeSlack
// bytes behind dst, as far as its capacity goes, as scratch space. It is safe
// for concurrent use.
type blockDecoder interface {
	decode(dst, src []byte) (int, error)
}

// decodeSlack is the room behind a block with which the zstd decoder copies by
// whole vectors, which makes it a third faster.
const decodeSlack = 16

// newBlockDecoder returns the decoder of a compressor id.
func newBlockDecoder(id uint16) (blockDecoder, error) {
	switch id {
	case disk.CompressorGzip:
		return &gzipDecoder{}, nil
	case disk.CompressorZstd:
		return newZstdDecoder()
	case disk.CompressorLZ4:
		return lz4Decoder{}, nil
	case disk.CompressorXZ:
		return xzDecoder{}, nil
	}
	if c, ok := compressionByID(id); ok {
		return nil, fmt.Errorf("squashfs: reading %v compression: %w", c, errors.ErrUnsupported)
	}
	return nil, fmt.Errorf("squashfs: reading compressor id %d: %w", id, errors.ErrUnsupported)
}

// safeDecode calls d and turns a panic of the decoder, which is code of
// others meeting bytes of others, into an error.
func safeDecode(d blockDecoder, dst, src []byte) (n int, err error) {
	defer func() {
		if p := recover(); p != nil {
			n, err = 0, fmt.Errorf("decoder panic: %v", p)
		}
	}()
	return d.decode(dst, src)
}

type gzipDecoder struct {
	pool sync.Pool // of *inflate.Decoder
}

func (d *gzipDecoder) decode(dst, src []byte) (int, error) {
	z, ok := d.pool.Get().(*inflate.Decoder)
	if !ok {
		z = new(inflate.Decoder)
	}
	n, err := z.Zlib(dst, src)
	d.pool.Put(z)
	return n, err
}

type zstdDecoder struct{ d *zstd.Decoder }

// maxZstdWindow is far above any block size. Kernels refuse windows greater
// than a block; streaming encoders write them, and as nothing is allocated by
// window size here they can be read all the same.
const maxZstdWindow = 128 << 20

func newZstdDecoder() (*zstdDecoder, error) {
	d, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(0),
		zstd.WithDecoderMaxMemory(maxZstdWindow),
		zstd.WithDecoderMaxWindow(maxZstdWindow),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	return &zstdDecoder{d}, nil
}

func (d *zstdDecoder) decode(dst, src []byte) (int, error) {
	out, err := d.d.DecodeAll(src, dst[:0:min(cap(dst), len(dst)+decodeSlack)])
	if err != nil {
		return 0, err
	}
	if len(out) > len(dst) {
		return 0, errDecodedSize
	}
	if len(out) > 0 && &out[0] != &dst[0] {
		copy(dst, out)
	}
	return len(out), nil
}

type lz4Decoder struct{}

func (lz4Decoder) decode(dst, src []byte) (int, error) { return lz4.UncompressBlock(src, dst) }
