package squashfs_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

// benchTrees are shaped like the layers of real images.
func benchTrees() map[string]testtree.Tree {
	small, large, sparse := testtree.Tree{}, testtree.Tree{}, testtree.Tree{}
	for i := range 4000 {
		p := fmt.Sprintf("usr/lib/python/%d/%d.py", i/50, i)
		small = append(small, testtree.File(p, 0o644, testtree.Text(uint64(i%3600), 200+i*7%12000)))
	}
	for i := range 4 {
		data := append(testtree.Text(uint64(i), 5<<20), testtree.Bytes(uint64(i), 1<<20)...)
		large = append(large, testtree.File(fmt.Sprintf("usr/lib/lib%d.so", i), 0o755, data))
	}
	sparse = append(sparse, testtree.File("core", 0o644, testtree.Zeros(32<<20)))
	return map[string]testtree.Tree{"manysmall": small, "fewlarge": large, "sparse": sparse}
}

// nowhere is an io.WriterAt that counts on being fast.
type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

func BenchmarkWrite(b *testing.B) {
	for name, tree := range benchTrees() {
		size := int64(0)
		for _, e := range tree {
			size += int64(len(e.Data))
		}
		for _, c := range writable() {
			for _, workers := range []int{1, 2} {
				b.Run(fmt.Sprintf("comp=%v/tree=%s/workers=%d", c, name, workers), func(b *testing.B) {
					b.SetBytes(size)
					b.ReportAllocs()
					for b.Loop() {
						w, err := squashfs.NewWriter(nowhere{}, &squashfs.WriterOptions{Compression: c, Workers: workers})
						if err != nil {
							b.Fatal(err)
						}
						if err := addTree(tree)(b.Context(), w); err != nil {
							b.Fatal(err)
						}
						if err := w.Close(); err != nil {
							b.Fatal(err)
						}
						b.ReportMetric(float64(size)/float64(w.Size()), "ratio")
					}
				})
			}
		}
	}
}

// benchEntries calls add with n entries of a tree with about seven in each
// directory, as real ones have.
func benchEntries(b *testing.B, n int, add func(squashfs.Entry) error) {
	for i := range n {
		e := squashfs.Entry{
			Path: fmt.Sprintf("usr/share/%02d/dir-%d/file-%x", i/7%90, i/7, uint32(i)*2654435761),
			Mode: 0o644, UID: uint32(i % 3),
		}
		if i%7 == 0 {
			e.Path, e.Mode = fmt.Sprintf("usr/share/%02d/dir-%d", i/7%90, i/7), 0o755|1<<31
		}
		if err := add(e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTables(b *testing.B) {
	for _, c := range []squashfs.Compression{squashfs.CompressionGzip, squashfs.CompressionZstd} {
		for _, n := range []int{100_000} {
			b.Run(fmt.Sprintf("comp=%v/entries=%d", c, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					build, err := squashfs.NewBuilder(&squashfs.BuilderOptions{Compression: c})
					if err != nil {
						b.Fatal(err)
					}
					benchEntries(b, n, build.Add)
					if _, err := build.WriteTables(b.Context(), nowhere{}, 4096); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkFromTar(b *testing.B) {
	tree := benchTrees()["manysmall"]
	archive := tree.Tar(nil)
	b.SetBytes(int64(len(archive)))
	for b.Loop() {
		w, err := squashfs.NewWriter(nowhere{}, &squashfs.WriterOptions{Compression: squashfs.CompressionZstd})
		if err != nil {
			b.Fatal(err)
		}
		if err := w.FromTar(context.Background(), bytes.NewReader(archive), nil); err != nil {
			b.Fatal(err)
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
