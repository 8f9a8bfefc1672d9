//go:build linux

package conformance_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

// writeImage writes an image with a squashfs.Writer, whose other tests are in its package.
func writeImage(t testing.TB, opts *squashfs.WriterOptions, fill func(context.Context, *squashfs.Writer) error) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image.squashfs")
	if err := squashfs.Create(t.Context(), image, opts, fill); err != nil {
		t.Fatal(err)
	}
	return image
}

// TestWriterRealTree compares a directory of this machine with what a kernel finds in its image.
func TestWriterRealTree(t *testing.T) {
	oracle.Root(t)
	oracle.Short(t, "writes a real tree several times")
	dir := "/usr/share/doc"
	if _, err := os.Stat(dir); err != nil {
		dir = "/etc"
	}
	want := walk(t, dir)
	for _, c := range []squashfs.Compression{squashfs.CompressionGzip, squashfs.CompressionZstd} {
		image := writeImage(t, &squashfs.WriterOptions{Compression: c}, func(ctx context.Context, w *squashfs.Writer) error {
			return w.FromDir(ctx, dir, nil)
		})
		noDiff(t, want, walk(t, oracle.KernelMount(t, image)), nil)
	}
}

// TestWriterHugeFile has the kernel read the end of a file that is larger than 4 GiB.
func TestWriterHugeFile(t *testing.T) {
	oracle.Root(t)
	oracle.Short(t, "hashes 5 GiB")
	const size = 5<<30 + 123
	end := testtree.Text(1, 1000)
	image := writeImage(t, &squashfs.WriterOptions{BlockSize: 1 << 20}, func(ctx context.Context, w *squashfs.Writer) error {
		e := squashfs.Entry{Path: "huge", Mode: 0o644, Size: size}
		r := io.MultiReader(io.LimitReader(zeros{}, size-int64(len(end))), bytes.NewReader(end))
		return w.Add(ctx, e, r)
	})
	dir := oracle.KernelMount(t, image)
	f, err := os.Open(filepath.Join(dir, "huge"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() != size {
		t.Fatalf("size %d, %v", info.Size(), err)
	}
	if blocks := info.Sys().(*syscall.Stat_t).Blocks; blocks > 4096 {
		t.Errorf("a sparse file takes %d blocks of 512 bytes", blocks)
	}
	got := make([]byte, 2000)
	if _, err := f.ReadAt(got, size-2000); err != nil || !bytes.Equal(got[1000:], end) || !bytes.Equal(got[:1000], make([]byte, 1000)) {
		t.Errorf("end of the file differs (%v)", err)
	}
}

// zeros is an endless reader of zeros.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
