package export

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"hash/crc32"
	"io"

	"github.com/opencontainers/go-digest"

	"hpcimg/squashfs"
)

// Blob says what the blob of a layer is called.
type Blob struct {
	Digest  digest.Digest // of the blob
	DiffID  digest.Digest // of the tar stream in it
	Size    int64
	TarSize int64
}

// Layer writes the tree to w as the blob of a layer. Level 0 is the compressor's default; opts.Layer is implied. The blob is a
// function of the tree, the compression, the level and the release of the compressor.
func Layer(ctx context.Context, w io.Writer, r *squashfs.Reader, c Compression, level int, opts *TarOptions) (*Blob, error) {
	var o TarOptions
	if opts != nil {
		o = *opts
	}
	o.Layer = true
	return writeBlob(ctx, w, c, level, o.Workers, func(ctx context.Context, w io.Writer) error { return Tar(ctx, w, r, &o) })
}

// Compress reads a tar stream to its end and writes it to w as the blob of a layer. Level 0 is the compressor's default.
func Compress(ctx context.Context, w io.Writer, r io.Reader, c Compression, level, workers int) (*Blob, error) {
	return writeBlob(ctx, w, c, level, workers, func(_ context.Context, w io.Writer) error {
		_, err := io.Copy(w, r)
		return err
	})
}

// writeBlob calls fill with a writer that compresses to w.
func writeBlob(ctx context.Context, w io.Writer, c Compression, level, workers int, fill func(context.Context, io.Writer) error) (*Blob, error) {
	z := &blobWriter{w: w, size: c.blockSize(), blob: sha256.New(), tar: sha256.New(), crc: crc32.NewIEEE()}
	do := make([]func(*block) error, workerCount(workers))
	for i := range do {
		compressor, err := newCompressor(c, level)
		if err != nil {
			return nil, err
		}
		do[i] = func(b *block) (err error) {
			b.out, err = compressor.compress(b.out[:0], b.before[:b.kept], b.data)
			return err
		}
	}
	if c == Gzip {
		// No name, no time; the system is "unknown".
		if err := z.put([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}); err != nil {
			return nil, err
		}
	}
	z.pipeline = newPipeline(ctx, do, func(b *block) error { return z.put(b.out) })
	err := fill(ctx, z)
	if err == nil {
		err = z.flush()
	}
	if late := z.close(); late != nil {
		err = late
	}
	if err == nil && c == Gzip {
		end := []byte{1, 0, 0, 0xff, 0xff} // an empty block, the last one
		end = binary.LittleEndian.AppendUint32(end, z.crc.Sum32())
		err = z.put(binary.LittleEndian.AppendUint32(end, uint32(z.read)))
	}
	if err != nil {
		return nil, err
	}
	return &Blob{
		Digest: digest.NewDigest(digest.SHA256, z.blob), DiffID: digest.NewDigest(digest.SHA256, z.tar),
		Size: z.written, TarSize: z.read,
	}, nil
}

// blobWriter cuts what is written to it into blocks and puts what becomes of them in a row.
type blobWriter struct {
	*pipeline[block]
	w    io.Writer
	size int // of a block
	slot *slot[block]

	// Of whoever writes.
	tar  hash.Hash
	crc  hash.Hash32
	read int64
	tail [window]byte // the end of the last block
	kept int

	// Of the end of the pipeline.
	blob    hash.Hash
	written int64
}

// block is a part of a tar stream on its way.
type block struct {
	data   []byte
	before [window]byte // stands before data, as far as
	kept   int          // says
	out    []byte
}

// Write implements io.Writer.
func (z *blobWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if z.slot == nil {
			s, err := z.take()
			if err != nil {
				return 0, err
			}
			b := &s.item
			if b.data == nil {
				b.data = make([]byte, 0, z.size)
			}
			b.data, b.before, b.kept = b.data[:0], z.tail, z.kept
			z.slot = s
		}
		b := &z.slot.item
		k := min(len(p), z.size-len(b.data))
		b.data = append(b.data, p[:k]...)
		p = p[k:]
		if len(b.data) == z.size {
			if err := z.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (z *blobWriter) flush() error {
	s := z.slot
	if s == nil {
		return nil
	}
	z.slot = nil
	data := s.item.data
	z.tar.Write(data)
	z.crc.Write(data)
	z.read += int64(len(data))
	z.kept = copy(z.tail[:], data[max(0, len(data)-window):])
	return z.submit(s)
}

// put writes to the blob.
func (z *blobWriter) put(p []byte) error {
	n, err := z.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return err
	}
	z.blob.Write(p)
	z.written += int64(len(p))
	return nil
}
