package export_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"io"
	"io/fs"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"hpcimg/convert/internal/export"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

var sparse = flag.Int64("export.sparse", 256, "size in MiB of the sparse file of TestSparse")

// TestCompress compares with what independent readers make of the blob.
func TestCompress(t *testing.T) {
	for _, size := range []int{0, 1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 5<<20 + 77} {
		stream := testtree.Text(uint64(size), size)
		for _, c := range []export.Compression{export.Gzip, export.Zstd, export.None} {
			var first []byte
			for _, workers := range []int{1, 3, 8} {
				var b bytes.Buffer
				blob, err := export.Compress(t.Context(), &b, bytes.NewReader(stream), c, 0, workers)
				if err != nil {
					t.Fatal(err)
				}
				want := export.Blob{Digest: digest.FromBytes(b.Bytes()), Size: int64(b.Len()), DiffID: digest.FromBytes(stream), TarSize: int64(size)}
				if *blob != want {
					t.Errorf("%s of %d bytes: %+v, want %+v", c, size, blob, want)
				}
				if first == nil {
					first = b.Bytes()
				}
				if !bytes.Equal(first, b.Bytes()) {
					t.Errorf("%s of %d bytes: %d workers make another blob", c, size, workers)
				}
			}
			if got := inflate(t, c, first); sha256.Sum256(got) != sha256.Sum256(stream) {
				t.Errorf("%s of %d bytes: other contents", c, size)
			}
			if c == export.Gzip && size > 1<<20 {
				if plain := gzipSize(t, stream); len(first) > plain*102/100 {
					t.Errorf("%d bytes, %d in one block", len(first), plain)
				}
			}
		}
	}
}

func gzipSize(t *testing.T, b []byte) int {
	t.Helper()
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, 5)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Len()
}

func inflate(t *testing.T, c export.Compression, b []byte) []byte {
	t.Helper()
	var r io.Reader = bytes.NewReader(b)
	var err error
	switch c {
	case export.Gzip:
		z, zErr := gzip.NewReader(r)
		if err = zErr; err == nil {
			z.Multistream(false) // one member
			r = z
		}
	case export.Zstd:
		r, err = zstd.NewReader(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestCompressorsForget has one worker compress what many do: what it has compressed before must not show.
func TestCompressorsForget(t *testing.T) {
	stream := append(testtree.Text(1, 5<<19), make([]byte, 5<<19+9)...)
	stream = append(stream, testtree.Bytes(2, 3<<19)...)
	stream = append(stream, testtree.Text(1, 3<<19)...)
	for _, level := range []int{1, 6, 9} {
		for _, c := range []export.Compression{export.Gzip, export.Zstd} {
			var blobs [2]*export.Blob
			for i, workers := range []int{1, 4} {
				var err error
				if blobs[i], err = export.Compress(t.Context(), io.Discard, bytes.NewReader(stream), c, level, workers); err != nil {
					t.Fatal(err)
				}
			}
			if *blobs[0] != *blobs[1] {
				t.Errorf("%s level %d: %+v and %+v", c, level, blobs[0], blobs[1])
			}
		}
	}
}

// TestLayer takes layers apart again.
func TestLayer(t *testing.T) {
	r := image(t, sample())
	want := tarOf(t, r, nil)
	for _, c := range []export.Compression{export.Gzip, export.Zstd, export.None} {
		var first *export.Blob
		for _, workers := range []int{1, 2, 5} {
			var b bytes.Buffer
			blob, err := export.Layer(t.Context(), &b, r, c, 1, &export.TarOptions{Workers: workers})
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = blob
			}
			if *first != *blob {
				t.Errorf("%s: %d workers: %+v, not %+v", c, workers, blob, first)
			}
			if !bytes.Equal(inflate(t, c, b.Bytes()), want) {
				t.Errorf("%s: another tar stream", c)
			}
		}
	}
}

func TestLayerFails(t *testing.T) {
	r := image(t, sample())
	for _, workers := range []int{1, 3} {
		broken := errors.New("broken")
		o := &export.TarOptions{Workers: workers}
		if _, err := export.Layer(t.Context(), &failing{1 << 20, broken}, r, export.Zstd, 0, o); !errors.Is(err, broken) {
			t.Errorf("writer: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		o.Progress = func(int64) { cancel() }
		if _, err := export.Layer(ctx, io.Discard, r, export.Gzip, 0, o); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		stream := io.MultiReader(bytes.NewReader(testtree.Bytes(1, 3<<20)), &failingReader{broken})
		if _, err := export.Compress(t.Context(), io.Discard, stream, export.Gzip, 0, workers); !errors.Is(err, broken) {
			t.Errorf("reader: %v", err)
		}
	}
	for c, levels := range map[export.Compression][]int{export.Gzip: {-1, 10}, export.Zstd: {-1, 23}} {
		for _, level := range levels {
			if _, err := export.Compress(t.Context(), io.Discard, bytes.NewReader(nil), c, level, 1); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%s level %d: %v", c, level, err)
			}
		}
	}
	if _, err := export.Compress(t.Context(), io.Discard, bytes.NewReader(nil), "lzma", 0, 1); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("lzma: %v", err)
	}
}

type failingReader struct{ err error }

func (f *failingReader) Read([]byte) (int, error) { return 0, f.err }

// TestSparse has a file that is nearly all holes. It is written out in full, as image layers should have it, and costs little more than
// its digests.
func TestSparse(t *testing.T) {
	size := *sparse << 20
	r := write(t, func(ctx context.Context, w *squashfs.Writer) error {
		return w.Add(ctx, squashfs.Entry{Path: "disk.img", Size: size}, io.MultiReader(io.LimitReader(zeros{}, size-1), bytes.NewReader([]byte{1})))
	})
	blob, err := export.Layer(t.Context(), io.Discard, r, export.Gzip, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if blob.TarSize < size || blob.Size > size/400 {
		t.Errorf("%+v", blob)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
