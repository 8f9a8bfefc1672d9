//go:build linux

package conformance_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

var matrix = flag.Bool("matrix", false, "TestUsr: a larger image, and every compressor with every block size, not only each of both once")

// cell is a way to write an image.
type cell struct {
	compression squashfs.Compression
	blockSize   int
}

func cells() []cell {
	if !*matrix {
		return []cell{
			{squashfs.CompressionGzip, 128 << 10},
			{squashfs.CompressionZstd, 1 << 20},
			{squashfs.CompressionLZ4, 4 << 10},
		}
	}
	var all []cell
	for _, c := range []squashfs.Compression{
		squashfs.CompressionGzip, squashfs.CompressionZstd, squashfs.CompressionLZ4, squashfs.CompressionNone,
	} {
		for _, size := range []int{4 << 10, 128 << 10, 1 << 20} {
			all = append(all, cell{c, size})
		}
	}
	return all
}

// TestUsr writes /usr of a distribution and reads it back with four readers that know nothing of one another: the kernel,
// unsquashfs, squashfuse and ours. The checker has nothing to say either.
func TestUsr(t *testing.T) {
	oracle.FUSE(t)
	name := "base"
	if *matrix {
		name = "python"
	}
	rootfs, _ := unpack(t, realImage(t, name), "v1")
	usr := filepath.Join(rootfs, "usr")
	want := walk(t, usr)
	for _, c := range cells() {
		t.Run(fmt.Sprintf("%v/%d", c.compression, c.blockSize), func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "usr.sqfs")
			err := squashfs.Create(t.Context(), image, &squashfs.WriterOptions{Compression: c.compression, BlockSize: c.blockSize},
				func(ctx context.Context, w *squashfs.Writer) error { return w.FromDir(ctx, usr, nil) })
			if err != nil {
				t.Fatal(err)
			}
			readBack(t, want, image)
		})
	}
}

func readBack(t *testing.T, want testtree.Listing, image string) {
	t.Helper()
	t.Run("kernel", func(t *testing.T) { noDiff(t, want, walk(t, oracle.KernelMount(t, image)), nil) })
	t.Run("unsquashfs", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "out")
		oracle.Run(t, "unsquashfs", "-no-progress", "-dest", dir, image)
		noDiff(t, want, walk(t, dir), nil)
	})
	t.Run("squashfuse", func(t *testing.T) {
		dir := t.TempDir()
		if out, err := exec.Command(oracle.Tool(t, "squashfuse"), image, dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
		// This release makes up inode numbers and swaps two name spaces of extended attributes.
		noDiff(t, ungrouped(want), ungrouped(walk(t, dir)), &testtree.DiffOptions{IgnoreXattrs: []string{""}})
	})
	t.Run("hpcimg", func(t *testing.T) {
		r, err := squashfs.Open(image, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got, err := testtree.FromFS(r)
		if err != nil {
			t.Fatal(err)
		}
		noDiff(t, want, got, nil)
	})
	t.Run("check", func(t *testing.T) {
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		report, err := squashfs.Check(t.Context(), f, info.Size(), nil)
		if err != nil || !report.OK() {
			t.Errorf("%v, %+v", err, report)
		}
	})
}

// ungrouped forgets which names are the same file.
func ungrouped(l testtree.Listing) testtree.Listing {
	out := make(testtree.Listing, len(l))
	for p, n := range l {
		n.Group = ""
		out[p] = n
	}
	return out
}
