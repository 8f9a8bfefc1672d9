//go:build linux

package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hpcimg/convert"
	"hpcimg/image/cache"
	"hpcimg/internal/oracle"
)

// cacheFiles returns the files of a cache, below dir.
func cacheFiles(t testing.TB, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestDamagedCache converts with a cache in which one file is not what it was. The bytes of the result are right all the same, and the
// conversion after that finds a sound cache.
func TestDamagedCache(t *testing.T) {
	s := makeSubjectOf(t, 8) // it is converted some two hundred times
	want := plainSum(t, s)
	dir := filepath.Join(t.TempDir(), "cache")
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 2))
	convertWith := func(t *testing.T) *convert.Result {
		t.Helper()
		c, err := cache.Open(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		dst := filepath.Join(t.TempDir(), "out.sif")
		result, err := convert.Convert(t.Context(), s.source(t), dst, &convert.Options{Cache: c})
		if err != nil {
			t.Fatal(err)
		}
		if sumFile(t, dst) != want {
			t.Fatal("other bytes")
		}
		return result
	}
	for _, damage := range []struct {
		name string
		do   func(t *testing.T, file string, size int64) error
	}{
		{"truncated", func(_ *testing.T, file string, size int64) error { return os.Truncate(file, rng.Int64N(size)) }},
		{"empty", func(_ *testing.T, file string, _ int64) error { return os.Truncate(file, 0) }},
		{"longer", func(_ *testing.T, file string, size int64) error { return os.Truncate(file, size+1) }},
		{"a bit flipped", flip(rng)},
		{"zeros", func(_ *testing.T, file string, size int64) error {
			return errors.Join(os.Truncate(file, size/2), os.Truncate(file, size))
		}},
		{"gone", func(_ *testing.T, file string, _ int64) error { return os.Remove(file) }},
		{"somebody else's", func(t *testing.T, file string, _ int64) error {
			oracle.Root(t)
			return os.Chown(file, 65533, 65533)
		}},
		{"writable for all", func(_ *testing.T, file string, _ int64) error { return os.Chmod(file, 0o666) }},
		{"a symbolic link", func(_ *testing.T, file string, _ int64) error {
			return errors.Join(os.Rename(file, file+".moved"), os.Symlink(file+".moved", file))
		}},
		{"a directory", func(_ *testing.T, file string, _ int64) error {
			return errors.Join(os.Remove(file), os.Mkdir(file, 0o755))
		}},
	} {
		t.Run(damage.name, func(t *testing.T) {
			convertWith(t)
			for _, file := range cacheFiles(t, dir) {
				info, err := os.Stat(file)
				if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
					continue // went when another file was found to be damaged
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := damage.do(t, file, info.Size()); err != nil {
					t.Fatal(err)
				}
				convertWith(t)
				if t.Failed() {
					t.Fatalf("with %s %s", file[len(dir):], damage.name)
				}
				if err := os.RemoveAll(file + ".moved"); err != nil {
					t.Fatal(err)
				}
				convertWith(t)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// flip changes one bit. The times of the file are what they were, as if the disk had done it.
func flip(rng *rand.Rand) func(*testing.T, string, int64) error {
	return func(t *testing.T, file string, size int64) error {
		t.Helper()
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		if err := os.Chmod(file, 0o600); err != nil {
			return err
		}
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		at, b := rng.Int64N(size), make([]byte, 1)
		if _, err := f.ReadAt(b, at); err != nil {
			return err
		}
		b[0] ^= 1 << rng.IntN(8)
		_, err = f.WriteAt(b, at)
		return errors.Join(err, os.Chmod(file, info.Mode()), os.Chtimes(file, info.ModTime(), info.ModTime()))
	}
}

// TestVanishingCache converts while somebody deletes, truncates and replaces files of the cache all the time.
func TestVanishingCache(t *testing.T) {
	s := makeSubject(t)
	want := plainSum(t, s)
	dir := filepath.Join(t.TempDir(), "cache")
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan int)
	go func() {
		rng, gone := rand.New(rand.NewPCG(3, 3)), 0
		for ctx.Err() == nil {
			var files []string
			_ = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					files = append(files, name)
				}
				return nil
			})
			if len(files) > 0 && os.Remove(files[rng.IntN(len(files))]) == nil {
				gone++
			}
			time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
		}
		over <- gone
	}()
	rounds := 6
	if *long {
		rounds = 100
	}
	for i := range rounds {
		c, err := cache.Open(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		dst := filepath.Join(t.TempDir(), fmt.Sprintf("out-%d.sif", i))
		if _, err := convert.Convert(t.Context(), s.source(t), dst, &convert.Options{Cache: c}); err != nil {
			t.Errorf("round %d: %v", i, err)
		} else if sumFile(t, dst) != want {
			t.Errorf("round %d: other bytes", i)
		}
	}
	cancel()
	t.Logf("%d files were removed during %d conversions", <-over, rounds)
	checkCache(t, dir)
}

// TestUntrustedCache: in a directory that others may write to anything could have been planted.
func TestUntrustedCache(t *testing.T) {
	s := makeSubject(t)
	dir := filepath.Join(t.TempDir(), "cache")
	s.run(t, "convert", "-q", "--cache-dir", dir, s.reference(), filepath.Join(t.TempDir(), "first.sif"))
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := cache.Open(dir, nil); !errors.Is(err, cache.ErrUntrusted) || !strings.Contains(err.Error(), "cache") {
		t.Errorf("a directory that everybody may write to: %v", err)
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := errors.Join(os.Chmod(dir, 0o700), os.Chown(dir, 65533, 65533)); err != nil {
		t.Fatal(err)
	}
	if _, err := cache.Open(dir, nil); !errors.Is(err, cache.ErrUntrusted) {
		t.Errorf("a directory of somebody else: %v", err)
	}
}
