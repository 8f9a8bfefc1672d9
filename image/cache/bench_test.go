package cache_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"hpcimg/image/cache"
)

// BenchmarkStore writes and commits a segment, with and without syncing it.
func BenchmarkStore(b *testing.B) {
	for _, size := range []int{1 << 20, 100 << 20} {
		data := make([]byte, size)
		rand.NewChaCha8([32]byte{}).Read(data)
		for _, sync := range []bool{true, false} {
			b.Run(fmt.Sprintf("size=%dM/sync=%v", size>>20, sync), func(b *testing.B) {
				c := open(b, "", &cache.Options{MaxSize: -1})
				c.SetBoot("boot", !sync)
				b.SetBytes(int64(size))
				for b.Loop() {
					e, err := tryStore(c, cache.KindSegment, key("a"), data, nil)
					if err != nil {
						b.Fatal(err)
					}
					e.Close()
					b.StopTimer()
					if err := c.Remove(cache.KindSegment, key("a")); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			})
		}
	}
}

// BenchmarkGet opens an entry whose data has been verified before, and one that has to be read.
func BenchmarkGet(b *testing.B) {
	for _, size := range []int{0, 64 << 20} {
		for _, marked := range []bool{true, false} {
			b.Run(fmt.Sprintf("size=%dM/marked=%v", size>>20, marked), func(b *testing.B) {
				opts := &cache.Options{}
				if !marked {
					opts.VerifyAge = -1
				}
				c := open(b, "", opts)
				e, err := tryStore(c, cache.KindSegment, key("a"), make([]byte, size), make([]byte, 1000))
				if err != nil {
					b.Fatal(err)
				}
				e.Close()
				if !marked {
					b.SetBytes(int64(size))
				}
				b.ReportAllocs()
				for b.Loop() {
					e, err := c.Get(b.Context(), cache.KindSegment, key("a"))
					if err == nil {
						err = e.Verify(b.Context())
					}
					if err != nil {
						b.Fatal(err)
					}
					e.Close()
				}
			})
		}
	}
}
