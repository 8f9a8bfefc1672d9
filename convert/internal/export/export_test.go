package export_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"hpcimg/convert/internal/export"
	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

// sample has a bit of everything.
func sample() testtree.Tree {
	t := testtree.Tree{
		testtree.Dir("bin", 0o755), testtree.File("bin/su", 0o4755, testtree.Bytes(1, 3<<20), testtree.Owner(0, 7)), testtree.Hardlink("bin/sudo", "bin/su"),
		testtree.Dir("tmp", 0o1777), testtree.Symlink("lib", "usr/lib"), testtree.Symlink("long", strings.Repeat("x/", 200)),
		testtree.Char("dev/null", 0o666, 1, 3), testtree.Block("dev/sda", 0o660, 8, 0), testtree.FIFO("dev/fifo", 0o600),
		testtree.File("empty", 0o600, ""), testtree.File("zeros", 0o644, make([]byte, 5<<20)),
		testtree.File("cap", 0o755, "x", testtree.Xattr("security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")),
		testtree.File("user", 0o644, "x", testtree.Xattr("user.a", strings.Repeat("\x00\n=b", 500)), testtree.Owner(1<<31, 65534)),
		testtree.File(strings.Repeat("deep/", 60)+"f", 0o644, "f"), testtree.File(strings.Repeat("n", 255), 0o644, "long name"),
		testtree.File("line\nbreak", 0o644, "odd name"),
	}
	for i := range 300 {
		t = append(t, testtree.File(fmt.Sprintf("usr/lib/%d", i), 0o644, testtree.Text(uint64(i), 100*i), testtree.MTime(int64(i))))
	}
	return t
}

func image(t testing.TB, tree testtree.Tree) *squashfs.Reader {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.sqfs")
	fill := func(ctx context.Context, w *squashfs.Writer) error {
		return w.FromTar(ctx, bytes.NewReader(tree.Tar(nil)), nil)
	}
	if err := squashfs.Create(t.Context(), path, &squashfs.WriterOptions{Compression: squashfs.CompressionLZ4}, fill); err != nil {
		t.Fatal(err)
	}
	r, err := squashfs.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func tarOf(t testing.TB, r *squashfs.Reader, workers int) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := export.Tar(t.Context(), &b, r, &export.TarOptions{Workers: workers}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestTar reads the stream back into an image, which must be the same tree, and wants the same stream from any number of workers.
func TestTar(t *testing.T) {
	r := image(t, sample())
	stream := tarOf(t, r, 1)
	for _, workers := range []int{2, 7} {
		if !bytes.Equal(stream, tarOf(t, r, workers)) {
			t.Errorf("%d workers: another stream", workers)
		}
	}
	path := filepath.Join(t.TempDir(), "again.sqfs")
	err := squashfs.Create(t.Context(), path, nil, func(ctx context.Context, w *squashfs.Writer) error {
		return w.FromTar(ctx, bytes.NewReader(stream), nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	again, err := squashfs.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	want, err := testtree.FromFS(r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := testtree.FromFS(again)
	if err != nil {
		t.Fatal(err)
	}
	if d := testtree.Diff(want, got, nil); d != "" {
		t.Error(d)
	}
}

// TestTarByGNU unpacks the stream with GNU tar.
func TestTarByGNU(t *testing.T) {
	oracle.Root(t)
	r := image(t, sample())
	dir := t.TempDir()
	archive := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(archive, tarOf(t, r, 2), 0o600); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "tar", "-C", dir, "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", archive)
	want, err := testtree.FromFS(r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := testtree.Walk(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := testtree.Diff(want, got, nil); d != "" {
		t.Error(d)
	}
}

func TestTarStops(t *testing.T) {
	r := image(t, sample())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := export.Tar(ctx, io.Discard, r, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	full := errors.New("full")
	for _, n := range []int{0, 1000, 2 << 20} {
		if err := export.Tar(t.Context(), &failing{n, full}, r, nil); !errors.Is(err, full) {
			t.Errorf("writer that fails after %d bytes: %v", n, err)
		}
	}
}

type failing struct {
	left int
	err  error
}

func (f *failing) Write(p []byte) (int, error) {
	if len(p) > f.left {
		return f.left, f.err
	}
	f.left -= len(p)
	return len(p), nil
}

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
				if blob.Digest != digest.FromBytes(b.Bytes()) || blob.Size != int64(b.Len()) {
					t.Errorf("%s of %d bytes: wrong name of the blob", c, size)
				}
				if blob.DiffID != digest.FromBytes(stream) || blob.TarSize != int64(size) {
					t.Errorf("%s of %d bytes: wrong diffID", c, size)
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

func TestCompressFails(t *testing.T) {
	stream := testtree.Bytes(1, 3<<20)
	broken := errors.New("broken")
	if _, err := export.Compress(t.Context(), io.Discard, io.MultiReader(bytes.NewReader(stream), &failingReader{broken}), export.Gzip, 0, 2); !errors.Is(err, broken) {
		t.Errorf("reader: %v", err)
	}
	if _, err := export.Compress(t.Context(), &failing{1 << 20, broken}, bytes.NewReader(stream), export.Zstd, 0, 2); !errors.Is(err, broken) {
		t.Errorf("writer: %v", err)
	}
	for _, level := range []int{-1, 23} {
		for _, c := range []export.Compression{export.Gzip, export.Zstd} {
			if _, err := export.Compress(t.Context(), io.Discard, bytes.NewReader(nil), c, level, 1); err == nil {
				t.Errorf("%s level %d is accepted", c, level)
			}
		}
	}
}

type failingReader struct{ err error }

func (f *failingReader) Read([]byte) (int, error) { return 0, f.err }
