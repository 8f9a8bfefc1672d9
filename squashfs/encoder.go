package squashfs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"hpcimg/squashfs/internal/disk"
)

// DefaultBlockSize is the data block size that writers use if none is given.
const DefaultBlockSize = 128 << 10

// encoderConfig says everything on which an encoder's output depends.
type encoderConfig struct {
	compression Compression
	level       int
	blockSize   int
}

// newEncoderConfig fills in defaults and refuses what cannot be written.
func newEncoderConfig(c Compression, level, blockSize int) (encoderConfig, error) {
	cfg := encoderConfig{compression: c, level: level, blockSize: blockSize}
	if blockSize == 0 {
		cfg.blockSize = DefaultBlockSize
	}
	if s := cfg.blockSize; s < disk.MinBlockSize || s > disk.MaxBlockSize || s&(s-1) != 0 {
		return cfg, fmt.Errorf("squashfs: BlockSize %d is not a power of 2 from 4096 to 1048576", blockSize)
	}
	var most int
	switch c {
	case CompressionGzip:
		most = 9
	case CompressionZstd:
		most = 22
	case CompressionLZ4:
		most = 9
	case CompressionNone:
		most = 0
	case CompressionXZ, CompressionLZO, CompressionLZMA:
		// For xz there is an encoder, but kernels fail to decode some of
		// its blocks with an I/O error.
		return cfg, fmt.Errorf("squashfs: writing %v: %w", c, errors.ErrUnsupported)
	default:
		return cfg, fmt.Errorf("squashfs: Compression %d is unknown", int(c))
	}
	if level < 0 || level > most {
		return cfg, fmt.Errorf("squashfs: Level %d is not within 0 to %d, as %v demands", level, most, c)
	}
	if level == 0 {
		cfg.level = defaultLevel(c)
	}
	return cfg, nil
}

// defaultLevel returns the level at which a compressor's speed and ratio are
// in the proportion that most images want.
func defaultLevel(c Compression) int {
	switch c {
	case CompressionGzip:
		return 6
	case CompressionZstd:
		return 3
	case CompressionLZ4:
		return 1
	}
	return 0
}

// blockLog returns the binary logarithm of the block size.
func (cfg encoderConfig) blockLog() uint16 { return uint16(bits.TrailingZeros(uint(cfg.blockSize))) }

// appendOptions appends the compressor options that follow the superblock.
// Only lz4 needs any.
func (cfg encoderConfig) appendOptions(dst []byte) []byte {
	if cfg.compression != CompressionLZ4 {
		return dst
	}
	var flags uint32
	if cfg.level > 1 {
		flags = disk.LZ4HC
	}
	return disk.AppendLZ4Options(dst, flags)
}

// blockEncoder compresses one block at a time. It is not safe for concurrent
// use; encoders are kept and used again because making one costs more than a
// block does.
type blockEncoder interface {
	// encode compresses src into dst, whose capacity is used and may be
	// exceeded. It returns nil if the result would not be shorter than src.
	encode(dst, src []byte) ([]byte, error)
}

func (cfg encoderConfig) newEncoder() (blockEncoder, error) {
	switch cfg.compression {
	case CompressionZstd:
		return newZstdEncoder(cfg)
	case CompressionLZ4:
		if cfg.level > 1 {
			level := lz4.CompressionLevel(1 << (8 + cfg.level - 1))
			return &lz4Encoder{compress: (&lz4.CompressorHC{Level: level}).CompressBlock}, nil
		}
		return &lz4Encoder{compress: new(lz4.Compressor).CompressBlock}, nil
	case CompressionNone:
		return rawEncoder{}, nil
	}
	return newZlibEncoder(cfg.level)
}

type rawEncoder struct{}

func (rawEncoder) encode(_, _ []byte) ([]byte, error) { return nil, nil }

// cappedBuffer is an io.Writer that gives up when limit bytes have come.
type cappedBuffer struct {
	buf   []byte
	limit int
}

var errOverCap = errors.New("squashfs: block does not shrink")

func (b *cappedBuffer) Write(p []byte) (int, error) {
	if len(b.buf)+len(p) >= b.limit {
		return 0, errOverCap
	}
	b.buf = append(b.buf, p...)
	return len(p), nil
}

type zlibEncoder struct {
	w   *zlib.Writer
	out cappedBuffer
}

func newZlibEncoder(level int) (blockEncoder, error) {
	w, err := zlib.NewWriterLevel(io.Discard, level)
	if err != nil {
		return nil, err
	}
	return &zlibEncoder{w: w}, nil
}

func (e *zlibEncoder) encode(dst, src []byte) ([]byte, error) {
	e.out = cappedBuffer{buf: dst[:0], limit: len(src)}
	e.w.Reset(&e.out)
	_, err := e.w.Write(src)
	if err == nil {
		err = e.w.Close()
	}
	if errors.Is(err, errOverCap) {
		return nil, nil
	}
	return e.out.buf, err
}

type zstdEncoder struct {
	whole     *zstd.Encoder // of blocks of the full size
	part      *zstd.Encoder // of the ends of files, groups of small files and metadata
	blockSize int
}

func newZstdEncoder(cfg encoderConfig) (*zstdEncoder, error) {
	e, err := newZstd(cfg, zstd.EncoderLevelFromZstd(cfg.level))
	if err != nil {
		return nil, err
	}
	z := &zstdEncoder{whole: e, part: e, blockSize: cfg.blockSize}
	if cfg.level == 2 {
		// The library has nothing between its two fastest matchers. What
		// the slower one gains, it gains where blocks are small.
		z.part, err = newZstd(cfg, zstd.SpeedDefault)
	}
	return z, err
}

// newZstd makes an encoder for EncodeAll, whose frames are single segments.
// The frames of a streaming encoder declare a window larger than a block,
// which kernels refuse to decode.
func newZstd(cfg encoderConfig, level zstd.EncoderLevel) (*zstd.Encoder, error) {
	opts := []zstd.EOption{
		zstd.WithEncoderLevel(level),
		zstd.WithWindowSize(max(cfg.blockSize, disk.MetadataSize)),
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false),
	}
	if level == zstd.SpeedFastest {
		// Hardly slower, and shorter by 0.7 %: executables have blocks
		// with few matches but a skewed alphabet.
		opts = append(opts, zstd.WithAllLitEntropyCompression(true))
	}
	return zstd.NewWriter(nil, opts...)
}

func (e *zstdEncoder) encode(dst, src []byte) ([]byte, error) {
	z := e.part
	if len(src) == e.blockSize {
		z = e.whole
	}
	out := z.EncodeAll(src, dst[:0])
	if len(out) >= len(src) {
		return nil, nil
	}
	return out, nil
}

type lz4Encoder struct {
	compress func(src, dst []byte) (int, error)
}

func (e *lz4Encoder) encode(dst, src []byte) ([]byte, error) {
	// The encoder takes short cuts if the result must fit.
	if bound := lz4.CompressBlockBound(len(src)); cap(dst) < bound {
		dst = make([]byte, bound)
	}
	n, err := e.compress(src, dst[:cap(dst)])
	if err != nil || n == 0 || n >= len(src) {
		return nil, err
	}
	return dst[:n], nil
}

// EncoderFingerprint identifies the bytes that a [Packer] of this build makes
// of given files with a compressor and level. The libraries behind it change
// their output between releases, and a program may be built with any of these,
// so a cache of packs must have the fingerprint in its keys.
func EncoderFingerprint(c Compression, level int) (string, error) {
	cfg, err := newEncoderConfig(c, level, DefaultBlockSize)
	if err != nil {
		return "", err
	}
	e, err := cfg.newEncoder()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%v %d %d %d\n", c, cfg.level, fragmentLimit, fragmentGroup)
	src := fingerprintInput()
	for _, size := range []int{len(src), len(src) / 2} {
		out, err := e.encode(nil, src[:size])
		if err != nil {
			return "", err
		}
		h.Write(out)
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// fingerprintInput returns a block with matches near and far, runs, literals
// and a skewed alphabet, so that a change in any of an encoder's choices is
// likely to show.
func fingerprintInput() []byte {
	b := make([]byte, 0, DefaultBlockSize)
	x := uint32(1)
	for len(b) < DefaultBlockSize {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		switch n := int(x>>8&63) + 3; {
		case x&7 < 3 && len(b) > 0:
			from := int(x>>3) % len(b)
			b = append(b, b[from:min(from+n, len(b))]...)
		case x&7 == 3:
			for range n {
				b = append(b, byte(x>>16))
			}
		default:
			b = append(b, "etaoin shrdlu"[x>>5%13], byte(x>>24&31)+'a')
		}
	}
	return b[:DefaultBlockSize]
}
