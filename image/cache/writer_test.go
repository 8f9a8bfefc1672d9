package cache_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"hpcimg/image/cache"
)

func TestRoundTrip(t *testing.T) {
	sizes := []int{0, 1, 4095, 4096, 4097, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3<<20 + 5}
	for _, kind := range []cache.Kind{cache.KindIndex, cache.KindSegment, cache.KindBlob} {
		t.Run(string(kind), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a", "b")
			for i, size := range sizes {
				data, meta := make([]byte, size), bytes.Repeat([]byte("meta"), i*1000)
				rand.NewChaCha8([32]byte{byte(i)}).Read(data)
				k := key(fmt.Sprint(i))
				if kind == cache.KindBlob {
					k, meta = blobKey(data), nil
				}
				c := open(t, dir, nil)
				miss(t, c, kind, k)
				checkEntry(t, store(t, c, kind, k, data, meta), data, meta)
				checkEntry(t, get(t, c, kind, k), data, meta)
				checkEntry(t, get(t, open(t, dir, &cache.Options{VerifyAge: -1}), kind, k), data, meta)
				if err := c.Remove(kind, k); err != nil {
					t.Fatal(err)
				}
				if err := c.Remove(kind, k); err != nil {
					t.Fatalf("removed twice: %v", err)
				}
				miss(t, c, kind, k)
			}
			if names := tree(t, dir); len(names) > 0 {
				t.Errorf("left: %q", names)
			}
		})
	}
}

func TestFileHasDataAtItsStart(t *testing.T) {
	c := open(t, "", nil)
	data := bytes.Repeat([]byte("x"), 5000)
	e := store(t, c, cache.KindSegment, key("a"), data, []byte("meta"))
	head := make([]byte, 8192)
	if _, err := e.File().ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	if want := append(data, make([]byte, 8192-5000)...); !bytes.Equal(head, want) {
		t.Error("the file does not begin with the data and zeros up to a page")
	}
	if n, err := e.File().WriteAt([]byte("x"), 0); err == nil {
		t.Errorf("wrote %d bytes to an entry", n)
	}
	if n, err := e.ReadAt(head[:10], 4995); n != 5 || !errors.Is(err, io.EOF) {
		t.Errorf("read %d bytes at the end: %v", n, err)
	}
	if n, err := e.ReadAt(head[:10], 5000); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read %d bytes behind the end: %v", n, err)
	}
}

func TestWriter(t *testing.T) {
	ctx := t.Context()
	c := open(t, "", nil)
	w, err := c.Create(cache.KindSegment, key("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if base := filepath.Base(w.File().Name()); !strings.HasPrefix(base, ".part-"+key("a")[:12]+"-") {
		t.Errorf("temporary name %q", base)
	}
	// Out of order, with a hole, and longer than what is committed.
	for _, off := range []int64{3 << 20, 10} {
		if _, err := w.WriteAt([]byte("hello"), off); err != nil {
			t.Fatal(err)
		}
	}
	var b [5]byte
	if _, err := w.ReadAt(b[:], 10); err != nil || string(b[:]) != "hello" {
		t.Fatalf("%q, %v", b, err)
	}
	miss(t, c, cache.KindSegment, key("a"))
	e, err := w.Commit(ctx, 2<<20, []byte("m"))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	want := make([]byte, 2<<20)
	copy(want[10:], "hello")
	checkEntry(t, e, want, []byte("m"))
	if err := w.Abort(); err != nil {
		t.Errorf("abort after commit: %v", err)
	}
	if _, err := w.Commit(ctx, 1, nil); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("second commit: %v", err)
	}
	checkEntry(t, get(t, c, cache.KindSegment, key("a")), want, []byte("m"))
	noLeftovers(t, c.Dir())
}

func TestSetKey(t *testing.T) {
	c := open(t, "", nil)
	w, err := c.Create(cache.KindSegment, "aabbccdd-unfinished")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for _, bad := range []string{"", "aabbccdd.x", "abbbccdd-1"} { // the last one would be in another directory
		if err := w.SetKey(bad); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := w.SetKey("aabbccdd-1"); err != nil {
		t.Fatal(err)
	}
	e, err := w.Commit(t.Context(), 0, []byte("m"))
	if err != nil {
		t.Fatal(err)
	}
	e.Close()
	checkEntry(t, get(t, c, cache.KindSegment, "aabbccdd-1"), nil, []byte("m"))
	miss(t, c, cache.KindSegment, "aabbccdd-unfinished")
	if err := w.SetKey("aabbccdd-2"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("after commit: %v", err)
	}
	data := []byte("blob")
	w, err = c.Create(cache.KindBlob, blobKey(data))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if err := w.SetKey(blobKey(data)); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("of a blob: %v", err)
	}
}

func TestAbort(t *testing.T) {
	c := open(t, "", nil)
	w, err := c.Create(cache.KindIndex, key("a"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.Abort(); err != nil {
			t.Fatal(err)
		}
	}
	noLeftovers(t, c.Dir())
}

func TestBlobMustHaveItsDigest(t *testing.T) {
	c := open(t, "", nil)
	data := bytes.Repeat([]byte("blob"), 1<<19)
	k := blobKey(data)
	for _, bad := range [][]byte{data[1:], append([]byte("x"), data[1:]...), nil} {
		_, err := tryStore(c, cache.KindBlob, k, bad, nil)
		if corrupt, ok := errors.AsType[*cache.CorruptError](err); !ok || corrupt.Key != k || !errors.Is(err, cache.ErrCorrupt) {
			t.Fatalf("%d bytes: %v", len(bad), err)
		}
		noLeftovers(t, c.Dir())
		miss(t, c, cache.KindBlob, k)
	}
	// In any order, and with more behind it.
	w, err := c.Create(cache.KindBlob, k)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for off := len(data); off >= 0; off -= len(data) / 2 {
		if _, err := w.WriteAt(data[max(off-len(data)/2, 0):off], int64(max(off-len(data)/2, 0))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.WriteAt([]byte("more"), int64(len(data))); err != nil {
		t.Fatal(err)
	}
	e, err := w.Commit(t.Context(), int64(len(data)), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	checkEntry(t, get(t, c, cache.KindBlob, k), data, nil)
	if err := e.VerifyRange(t.Context(), 5, 6); err != nil {
		t.Fatal(err)
	}
}
