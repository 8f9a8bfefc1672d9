package squashfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"hpcimg/squashfs/internal/disk"
)

// errDecodedSize says that a block holds more than it may. Decoders stop
// there: a block never expands beyond the buffer that the caller sized.
var errDecodedSize = errors.New("decompresses to more bytes than it may")

// blockDecoder decompresses whole blocks. decode fills dst from src and
// returns the number of bytes, at most len(dst). It is safe for concurrent
// use.
type blockDecoder interface {
	decode(dst, src []byte) (int, error)
}

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
	pool sync.Pool // of *gzipState
}

type gzipState struct {
	in bytes.Reader
	z  io.ReadCloser
}

func (d *gzipDecoder) decode(dst, src []byte) (int, error) {
	st, _ := d.pool.Get().(*gzipState)
	if st == nil {
		st = &gzipState{}
	}
	defer d.pool.Put(st)
	st.in.Reset(src)
	var err error
	if st.z == nil {
		st.z, err = zlib.NewReader(&st.in)
	} else {
		err = st.z.(zlib.Resetter).Reset(&st.in, nil)
	}
	if err != nil {
		return 0, err
	}
	n, err := io.ReadFull(st.z, dst)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return n, nil
	}
	if err != nil {
		return 0, err
	}
	// The checksum is verified by the read that reaches the end.
	var one [1]byte
	switch k, err := st.z.Read(one[:]); {
	case k > 0:
		return 0, errDecodedSize
	case err != nil && !errors.Is(err, io.EOF):
		return 0, err
	}
	return n, nil
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
	out, err := d.d.DecodeAll(src, dst[:0:len(dst)])
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
