package export

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"runtime"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Compression is how the blob of a layer is stored.
type Compression string

// The compressions of layers.
const (
	Gzip Compression = "gzip"
	Zstd Compression = "zstd"
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

// Blob says what a blob is called.
type Blob struct {
	Digest, DiffID digest.Digest
	Size           int64 // of the blob
	TarSize        int64
}

const (
	blockSize = 1 << 20
	window    = 32 << 10 // that a block of deflate may refer to
)

// compressor compresses one block at a time. Some use what comes before it.
type compressor interface {
	compress(dst, before, block []byte) ([]byte, error)
}

// Compress reads a tar stream to its end and writes it compressed to w. Level 0 is the compressor's default.
func Compress(ctx context.Context, w io.Writer, r io.Reader, c Compression, level, workers int) (*Blob, error) {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	z := &blobWriter{w: w, blob: sha256.New(), tar: sha256.New(), crc: crc32.NewIEEE()}
	newCompressor, err := compressors(c, level)
	if err != nil {
		return nil, err
	}
	if c == Gzip {
		// No name, no time; the system is "unknown".
		if err := z.write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}); err != nil {
			return nil, err
		}
	}
	if err := z.pump(ctx, r, newCompressor, workers); err != nil {
		return nil, err
	}
	if c == Gzip {
		end := []byte{1, 0, 0, 0xff, 0xff} // an empty block, the last
		end = binary.LittleEndian.AppendUint32(end, z.crc.Sum32())
		end = binary.LittleEndian.AppendUint32(end, uint32(z.tarSize))
		if err := z.write(end); err != nil {
			return nil, err
		}
	}
	return &Blob{
		Digest: digest.NewDigest(digest.SHA256, z.blob), DiffID: digest.NewDigest(digest.SHA256, z.tar),
		Size: z.size, TarSize: z.tarSize,
	}, nil
}

// blobWriter puts the blocks in order.
type blobWriter struct {
	w             io.Writer
	blob, tar     hash.Hash
	crc           hash.Hash32
	size, tarSize int64
}

func (z *blobWriter) write(p []byte) error {
	z.blob.Write(p)
	z.size += int64(len(p))
	_, err := z.w.Write(p)
	return err
}

// task is a block on its way.
type task struct {
	before, block, out []byte
	err                error
	done               chan struct{}
}

// pump reads blocks, has them compressed, and writes them in order.
func (z *blobWriter) pump(ctx context.Context, r io.Reader, newCompressor func() (compressor, error), workers int) error {
	ctx, cancel := context.WithCancel(ctx)
	queue := make(chan *task, workers+1)
	work := make(chan *task)
	ended := make(chan struct{}, workers+1)
	for range workers {
		go func() {
			defer func() { ended <- struct{}{} }()
			runCompressor(work, newCompressor)
		}()
	}
	var readErr error
	go func() {
		defer func() { ended <- struct{}{} }()
		defer close(work)
		defer close(queue)
		readErr = z.readBlocks(ctx, r, queue, work)
	}()
	err := z.writeBlocks(ctx, queue)
	cancel()
	for range workers + 1 {
		<-ended
	}
	if err == nil {
		err = readErr
	}
	return err
}

func runCompressor(work <-chan *task, newCompressor func() (compressor, error)) {
	c, err := newCompressor()
	for t := range work {
		if t.err = err; err == nil {
			t.out, t.err = c.compress(t.out[:0], t.before, t.block)
		}
		close(t.done)
	}
}

// readBlocks cuts the stream into blocks, each with what stands before it.
func (z *blobWriter) readBlocks(ctx context.Context, r io.Reader, queue, work chan<- *task) error {
	var before []byte
	for {
		block := make([]byte, blockSize)
		n, err := io.ReadFull(r, block)
		if block = block[:n]; n > 0 {
			z.tar.Write(block)
			z.crc.Write(block)
			z.tarSize += int64(n)
			t := &task{before: before, block: block, done: make(chan struct{})}
			for _, to := range []chan<- *task{queue, work} {
				select {
				case to <- t:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			before = block[max(0, n-window):]
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && n < blockSize {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (z *blobWriter) writeBlocks(ctx context.Context, queue <-chan *task) error {
	for t := range queue {
		select {
		case <-t.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if t.err != nil {
			return t.err
		}
		if err := z.write(t.out); err != nil {
			return err
		}
	}
	return nil
}

func compressors(c Compression, level int) (func() (compressor, error), error) {
	switch c {
	case Gzip:
		if level == 0 {
			level = 6
		}
		if level < 1 || level > 9 {
			return nil, fmt.Errorf("gzip level %d is not within 1 to 9", level)
		}
		return func() (compressor, error) { return &deflate{level: level}, nil }, nil
	case Zstd:
		if level == 0 {
			level = 3
		}
		if level < 1 || level > 22 {
			return nil, fmt.Errorf("zstd level %d is not within 1 to 22", level)
		}
		return func() (compressor, error) {
			e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1))
			return frames{e}, err
		}, nil
	case None:
		return func() (compressor, error) { return plain{}, nil }, nil
	}
	return nil, fmt.Errorf("compression %q: %w", c, errors.ErrUnsupported)
}

// deflate makes blocks of one deflate stream, each ended by a flush.
type deflate struct {
	level int
	w     *flate.Writer
}

func (d *deflate) compress(dst, before, block []byte) ([]byte, error) {
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
	return out.b, err
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

func (plain) compress(_, _, block []byte) ([]byte, error) { return block, nil }
