package fstestx_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"hpcimg/internal/fstestx"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

func tree() testtree.Tree {
	tree := testtree.Tree{
		testtree.Dir(".", 0o755),
		testtree.Dir("a", 0o755),
		testtree.Dir("a/empty", 0o755),
		testtree.File("a/zero", 0o644, ""),
		testtree.File("a/one", 0o644, "1"),
		testtree.File("a/big", 0o644, testtree.Bytes(1, 300_000)),
		testtree.File("a/holes", 0o644, append(testtree.Zeros(500_000), "end"...)),
		testtree.Symlink("a/link", "one"),
		testtree.Dir("many", 0o755),
	}
	for i := range 300 {
		tree = append(tree, testtree.File(fmt.Sprintf("many/a-rather-long-name-%d", i), 0o644, testtree.Text(uint64(i), i)))
	}
	return tree
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	tree().Dir(t, dir)
	fstestx.Test(t, os.DirFS(dir), tree().Listing(), &fstestx.Options{
		Diff: &testtree.DiffOptions{IgnoreOwner: true, IgnoreLinks: true},
	})
	fstestx.Test(t, os.DirFS(dir), tree().Listing(), &fstestx.Options{Mounted: true})
}

func TestReader(t *testing.T) {
	for _, blockSize := range []int{4096, 131072} {
		t.Run(fmt.Sprintf("block=%d", blockSize), func(t *testing.T) {
			r, err := squashfs.Open(writeImage(t, blockSize), nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = r.Close() })
			fstestx.Test(t, r, tree().Listing(), nil)
		})
	}
}

func writeImage(t *testing.T, blockSize int) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image.sqfs")
	err := squashfs.Create(t.Context(), image, &squashfs.WriterOptions{BlockSize: blockSize}, func(ctx context.Context, w *squashfs.Writer) error {
		return w.FromTar(ctx, bytes.NewReader(tree().Tar(nil)), nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	return image
}
