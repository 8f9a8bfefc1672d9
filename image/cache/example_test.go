package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"hpcimg/image/cache"
)

// Looking an entry up, and making it if it is not there.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "cache")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	lookUp := func(c *cache.Cache, key string) (*cache.Entry, error) {
		e, err := c.Get(ctx, cache.KindSegment, key)
		if err != nil {
			return nil, err
		}
		if err := e.Verify(ctx); err != nil {
			return nil, errors.Join(err, e.Close())
		}
		return e, nil
	}
	produce := func(c *cache.Cache, key string) (*cache.Entry, error) {
		w, err := c.Create(cache.KindSegment, key)
		if err != nil {
			return nil, err
		}
		defer w.Abort()
		n, err := w.Write([]byte("what took long to compute"))
		if err != nil {
			return nil, err
		}
		return w.Commit(ctx, int64(n), []byte("and how to read it"))
	}

	c, err := cache.Open(filepath.Join(dir, "hpcimg"), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 2 {
		e, err := lookUp(c, "0123456789abcdef")
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, cache.ErrCorrupt) {
			fmt.Println("a miss")
			e, err = produce(c, "0123456789abcdef")
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%d bytes, %s\n", e.Size(), e.Meta())
		e.Close()
	}
	// Output:
	// a miss
	// 25 bytes, and how to read it
	// 25 bytes, and how to read it
}

// One of many callers does the work, whatever process or node they are on.
func ExampleCache_Once() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "cache")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	c, err := cache.Open(filepath.Join(dir, "hpcimg"), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	done := false
	for range 2 {
		release, err := c.Once(ctx, "convert sha256:0123", func() bool { return done })
		if err != nil {
			fmt.Println(err)
			return
		}
		if release == nil {
			fmt.Println("somebody has done it")
			continue
		}
		fmt.Println("doing it")
		done = true
		release()
	}
	// Output:
	// doing it
	// somebody has done it
}
