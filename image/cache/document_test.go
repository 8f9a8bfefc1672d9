package cache_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"hpcimg/image/cache"
)

// TestDocument stores, replaces and loses documents.
func TestDocument(t *testing.T) {
	c, err := cache.Open(filepath.Join(t.TempDir(), "cache"), nil)
	if err != nil {
		t.Fatal(err)
	}
	key := strings.Repeat("ab", 32) + "-tag"
	if _, err := c.Document(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before: %v", err)
	}
	for _, text := range []string{"one", "one", "two", ""} {
		if err := c.PutDocument(t.Context(), key, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Document(t.Context(), key); err != nil || string(got) != text {
			t.Errorf("got %q, %v; want %q", got, err, text)
		}
	}
	if err := c.PutDocument(t.Context(), "../x", nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a path as a key: %v", err)
	}
	if err := c.PutDocument(t.Context(), key, make([]byte, 65<<20)); !errors.Is(err, cache.ErrLimit) {
		t.Errorf("too long: %v", err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := c.PutDocument(t.Context(), key, []byte{'0' + byte(i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, err := c.Document(t.Context(), key); err != nil || len(got) != 1 {
		t.Errorf("after a race: %q, %v", got, err)
	}
	// What a site has is seen by all of its users.
	user, err := cache.Open(filepath.Join(t.TempDir(), "user"), &cache.Options{Site: []string{c.Dir()}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := user.Document(t.Context(), key); err != nil {
		t.Error(err)
	}
	if err := user.PutDocument(t.Context(), key, []byte("newer")); err != nil {
		t.Fatal(err)
	}
	if got, err := user.Document(t.Context(), key); err != nil || string(got) != "newer" {
		t.Errorf("beside a site: %q, %v", got, err)
	}
	var path string
	_ = filepath.WalkDir(c.Dir(), func(p string, d fs.DirEntry, _ error) error {
		if filepath.Base(p) == key {
			path = p
		}
		return nil
	})
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o400); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Document(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("damaged: %q, %v", got, err)
	}
}
