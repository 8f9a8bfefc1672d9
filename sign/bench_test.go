package sign_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"hpcimg/sif"
	"hpcimg/sign"
)

// largeImage is a signed file of 1 GiB in so many objects of the same size. It is all holes, which cost no space and are read as fast as cached data.
func largeImage(b *testing.B, objects int) (string, *sign.Key) {
	b.Helper()
	const total = 1 << 30
	path := filepath.Join(b.TempDir(), "large.sif")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o755)
	must(b, err)
	defer f.Close()
	w, err := sif.NewWriter(f, &sif.WriterOptions{Arch: "amd64", Capacity: 16})
	must(b, err)
	offset, err := w.BeginPartition()
	must(b, err)
	size := int64(total / objects)
	must(b, f.Truncate(offset+size))
	must(b, w.EndPartition(size))
	_, err = w.Close()
	must(b, err)
	for i := 1; i < objects; i++ {
		must(b, sif.AddObject(b.Context(), path, &sif.NewObject{Type: sif.DataGeneric, Group: 1, Name: fmt.Sprint(i), Data: io.LimitReader(zeroReader{}, size)}, nil))
	}
	key := generate(b, sign.KeyOptions{Time: epoch()})
	must(b, sign.Sign(b.Context(), path, key, nil))
	return path, key
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// BenchmarkVerify verifies a file of 1 GiB; work=sha256 is one pass of SHA-256 over the same file, which is what it is measured against.
func BenchmarkVerify(b *testing.B) {
	for _, objects := range []int{1, 4} {
		b.Run(fmt.Sprintf("objects=%d", objects), func(b *testing.B) {
			path, key := largeImage(b, objects)
			b.Run("work=sha256", func(b *testing.B) {
				b.SetBytes(1 << 30)
				for b.Loop() {
					f, err := os.Open(path)
					must(b, err)
					h := sha256.New()
					_, err = io.Copy(h, f)
					must(b, err)
					f.Close()
				}
			})
			for _, workers := range []int{1, 2} {
				b.Run(fmt.Sprintf("work=verify/workers=%d", workers), func(b *testing.B) {
					b.SetBytes(1 << 30)
					b.ReportAllocs()
					opts := trust(key)
					opts.Workers = workers
					for b.Loop() {
						_, err := sign.VerifyPath(b.Context(), path, opts)
						must(b, err)
					}
				})
			}
		})
	}
}
