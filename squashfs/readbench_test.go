package squashfs_test

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"testing"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

// benchTree is shaped like a layer: many small files, some of middle size, one
// large one.
func benchTree() testtree.Tree {
	t := testtree.Tree{testtree.Dir(".", 0o755)}
	for d := range 20 {
		t = append(t, testtree.Dir(fmt.Sprintf("dir%02d", d), 0o755))
		for i := range 100 {
			t = append(t, testtree.File(fmt.Sprintf("dir%02d/file%03d", d, i), 0o644, testtree.Text(uint64(d*100+i), 200*i)))
		}
		t = append(t, testtree.File(fmt.Sprintf("dir%02d/middle", d), 0o644, testtree.Text(uint64(d), 400_000)))
	}
	return append(t, testtree.File("large", 0o644, testtree.Text(99, 32<<20)))
}

func benchImage(b *testing.B, args ...string) string {
	b.Helper()
	dir := b.TempDir()
	benchTree().Dir(b, dir)
	return mksquashfs(b, dir, args...)
}

func benchCompressions() []string { return []string{"gzip", "zstd", "lz4", "xz"} }

// BenchmarkReadLarge writes a file of 32 MiB out, by WriteTo.
func BenchmarkReadLarge(b *testing.B) {
	for _, comp := range benchCompressions() {
		image := benchImage(b, "-comp", comp)
		for _, workers := range []int{1, 0} {
			b.Run(fmt.Sprintf("comp=%s/workers=%d", comp, workers), func(b *testing.B) {
				r := openImage(b, image, &squashfs.ReaderOptions{Workers: workers})
				b.SetBytes(32 << 20)
				b.ReportAllocs()
				for b.Loop() {
					f, err := r.Open("large")
					if err != nil {
						b.Fatal(err)
					}
					if n, err := f.(io.WriterTo).WriteTo(io.Discard); n != 32<<20 || err != nil {
						b.Fatal(n, err)
					}
				}
			})
		}
	}
}

// BenchmarkReadAt reads 4 KiB at random places: of a cached megabyte, and of
// 32 MiB through a cache of 8.
func BenchmarkReadAt(b *testing.B) {
	image := benchImage(b, "-comp", "zstd")
	for _, span := range []int64{1 << 20, 32 << 20} {
		b.Run(fmt.Sprintf("comp=zstd/span=%dM", span>>20), func(b *testing.B) {
			r := openImage(b, image, &squashfs.ReaderOptions{CacheSize: 8 << 20})
			in, err := r.Root().Lookup("large")
			if err != nil {
				b.Fatal(err)
			}
			rng := rand.New(rand.NewPCG(1, 1))
			var buf [4096]byte
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := in.ReadAt(buf[:], rng.Int64N(span-4096)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkWalk opens an image and describes each of its 2042 entries.
func BenchmarkWalk(b *testing.B) {
	for _, comp := range []string{"gzip", "zstd"} {
		image := benchImage(b, "-comp", comp)
		b.Run("comp="+comp, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r, err := squashfs.Open(image, nil)
				if err != nil {
					b.Fatal(err)
				}
				err = fs.WalkDir(r, ".", func(_ string, d fs.DirEntry, err error) error {
					if err == nil {
						_, err = d.Info()
					}
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
				r.Close()
			}
		})
	}
}

// BenchmarkLookup finds files in a directory of 600, which has an index.
func BenchmarkLookup(b *testing.B) {
	r := openImage(b, mksquashfs(b, sourceDir(b)), nil)
	dir, err := r.Root().Lookup("many")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := dir.Lookup(manyName(i % 600)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExtract extracts 2042 entries, 55 MB, and has unsquashfs do it.
func BenchmarkExtract(b *testing.B) {
	for _, comp := range []string{"gzip", "zstd"} {
		image := benchImage(b, "-comp", comp)
		clean := func(dir string) {
			if err := os.RemoveAll(dir); err != nil {
				b.Fatal(err)
			}
		}
		b.Run("comp="+comp+"/tool=hpcimg", func(b *testing.B) {
			dir := b.TempDir() + "/out"
			b.SetBytes(60 << 20)
			for b.Loop() {
				r, err := squashfs.Open(image, nil)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := squashfs.ExtractTo(b.Context(), r, dir, nil); err != nil {
					b.Fatal(err)
				}
				r.Close()
				b.StopTimer()
				clean(dir)
				b.StartTimer()
			}
		})
		b.Run("comp="+comp+"/tool=unsquashfs", func(b *testing.B) {
			dir := b.TempDir() + "/out"
			b.SetBytes(60 << 20)
			for b.Loop() {
				oracle.Run(b, "unsquashfs", "-quiet", "-no-progress", "-d", dir, image)
				b.StopTimer()
				clean(dir)
				b.StartTimer()
			}
		})
	}
}

// BenchmarkCheck checks an image of 2042 entries.
func BenchmarkCheck(b *testing.B) {
	for _, comp := range []string{"gzip", "zstd"} {
		r := openImage(b, benchImage(b, "-comp", comp), nil)
		f, err := os.Open(benchImage(b, "-comp", comp))
		if err != nil {
			b.Fatal(err)
		}
		b.Run("comp="+comp, func(b *testing.B) {
			for b.Loop() {
				if _, err := squashfs.Check(b.Context(), f, r.BytesUsed(), nil); err != nil {
					b.Fatal(err)
				}
			}
		})
		f.Close()
	}
}
