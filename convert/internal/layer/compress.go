package layer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"hpcimg/internal/inflate"
)

// Compression is how a layer is stored.
type Compression string

// The compressions that can be read.
const (
	Plain Compression = "tar"
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
)

// sniff tells the compression of a stream by its first bytes.
func sniff(head []byte) Compression {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return Gzip
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Zstd
	case len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		return Zstd // begins with a skippable frame
	}
	return Plain
}

// decompress returns the tar stream in r. close frees what it takes.
func decompress(r io.Reader) (tr io.Reader, c Compression, closer func(), err error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", nil, err
	}
	err = nil
	closer = func() {}
	switch c = sniff(head); c {
	case Gzip:
		tr, err = inflate.NewGzipReader(br)
	case Zstd:
		var d *zstd.Decoder
		d, err = zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderMaxMemory(1<<62))
		if err == nil {
			tr, closer = d, d.Close
		}
	default:
		tr = br
	}
	if err != nil {
		return nil, c, nil, fmt.Errorf("%s: %w", c, err)
	}
	return tr, c, closer, nil
}
