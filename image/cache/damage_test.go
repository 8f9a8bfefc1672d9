package cache_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"hpcimg/image/cache"
)

// TestDamage damages an entry in each way that there is, and wants it to be a miss, or Verify to say where it
// is damaged; gone afterwards; and the next one to be stored in its place.
func TestDamage(t *testing.T) {
	data, meta := bytes.Repeat([]byte("0123456789abcdef"), 3<<16), bytes.Repeat([]byte("m"), 5000)
	const size = 3 << 20 // of data
	truncate := func(n int64) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			chmod(t, path, 0o600)
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if n < 0 {
				n += info.Size()
			}
			if err := os.Truncate(path, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	flipAt := func(off int64) func(t *testing.T, path string) {
		return func(t *testing.T, path string) { flip(t, path, off) }
	}
	replace := func(f func(path string) error) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			if err := errors.Join(os.Remove(path), f(path)); err != nil {
				t.Fatal(err)
			}
		}
	}
	const miss = -2 // at Get; else the offset that Verify tells
	tests := []struct {
		name   string
		damage func(t *testing.T, path string)
		at     int64
	}{
		{"first byte", flipAt(0), 0},
		{"second chunk", flipAt(1 << 20), 1 << 20},
		{"last byte of data", flipAt(size - 1), 2 << 20},
		{"two chunks", func(t *testing.T, path string) { flip(t, path, 2<<20+7); flip(t, path, 1<<20+7) }, 1 << 20},
		{"meta", flipAt(size), miss},
		{"sums", flipAt(size + 5000), miss},
		{"magic", flipAt(-256), miss},
		{"version", flipAt(-256 + 8), miss},
		{"size", flipAt(-256 + 16), miss},
		{"huge size", flipAt(-256 + 22), miss},
		{"meta size", flipAt(-256 + 24), miss},
		{"key", flipAt(-256 + 48), miss},
		{"reserved", flipAt(-256 + 208), miss},
		{"sum", flipAt(-1), miss},
		{"a byte short", truncate(-1), miss},
		{"a byte long", func(t *testing.T, path string) {
			chmod(t, path, 0o600)
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteString("x"); err != nil {
				t.Fatal(err)
			}
		}, miss},
		{"half", truncate(size / 2), miss},
		{"a footer's size", truncate(256), miss},
		{"empty", truncate(0), miss},
		{"group-writable", func(t *testing.T, path string) { chmod(t, path, 0o660) }, miss},
		{"writable by all", func(t *testing.T, path string) { chmod(t, path, 0o602) }, miss},
		{"symlink", func(t *testing.T, path string) {
			if err := errors.Join(os.Rename(path, path+".real"), os.Symlink(path+".real", path)); err != nil {
				t.Fatal(err)
			}
		}, miss},
		{"dangling symlink", replace(func(path string) error { return os.Symlink("nowhere", path) }), miss},
		{"fifo", replace(func(path string) error { return syscall.Mkfifo(path, 0o600) }), miss},
		{"deleted", replace(func(string) error { return nil }), miss},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log, heard := logged()
			c := open(t, "", &cache.Options{Logger: log, VerifyAge: -1})
			k := key("a")
			store(t, c, cache.KindSegment, k, data, meta)
			tt.damage(t, c.Path(cache.KindSegment, k))
			e, err := c.Get(t.Context(), cache.KindSegment, k)
			if tt.at == miss {
				if !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("get: %v, want a miss", err)
				}
			} else {
				if err != nil {
					t.Fatal(err)
				}
				defer e.Close()
				err := e.Verify(t.Context())
				corrupt, ok := errors.AsType[*cache.CorruptError](err)
				if !ok || corrupt.Offset != tt.at || corrupt.Kind != cache.KindSegment || corrupt.Key != k || corrupt.Tier != c.Dir() {
					t.Fatalf("verify: %v, want damage at %#x", err, tt.at)
				}
			}
			if _, err := os.Lstat(c.Path(cache.KindSegment, k)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the damaged entry is still there: %v", err)
			}
			if tt.name != "deleted" && strings.Count(heard.String(), "damaged entry removed") != 1 {
				t.Errorf("logged: %q", heard)
			}
			store(t, c, cache.KindSegment, k, data, meta)
			checkEntry(t, get(t, c, cache.KindSegment, k), data, meta)
		})
	}
}

func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedBlob(t *testing.T) {
	data := bytes.Repeat([]byte("blob"), 1<<19)
	k := blobKey(data)
	for name, damage := range map[string]func(path string){
		"flipped": func(path string) { flip(t, path, 1000) },
		"short": func(path string) {
			chmod(t, path, 0o600)
			if err := os.Truncate(path, 1<<20); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t, "", nil)
			store(t, c, cache.KindBlob, k, data, nil)
			damage(c.Path(cache.KindBlob, k))
			err := get(t, c, cache.KindBlob, k).Verify(t.Context())
			if corrupt, ok := errors.AsType[*cache.CorruptError](err); !ok || corrupt.Offset != -1 {
				t.Fatal(err)
			}
			miss(t, c, cache.KindBlob, k)
			store(t, c, cache.KindBlob, k, data, nil)
			checkEntry(t, get(t, c, cache.KindBlob, k), data, nil)
		})
	}
}

// TestAnotherName wants an entry to be of no use under the name of another one.
func TestAnotherName(t *testing.T) {
	c := open(t, "", nil)
	store(t, c, cache.KindIndex, "aaaaaaaa-1", []byte("data"), nil)
	store(t, c, cache.KindSegment, "aaaaaaaa-1", []byte("other"), nil)
	for _, to := range []string{c.Path(cache.KindIndex, "aaaaaaaa-2"), c.Path(cache.KindSegment, "aaaaaaaa-1")} {
		_ = os.Remove(to)
		if err := os.Link(c.Path(cache.KindIndex, "aaaaaaaa-1"), to); err != nil {
			t.Fatal(err)
		}
	}
	miss(t, c, cache.KindIndex, "aaaaaaaa-2")
	miss(t, c, cache.KindSegment, "aaaaaaaa-1")
	get(t, c, cache.KindIndex, "aaaaaaaa-1")
}

// TestDeletedWhileOpen wants whoever has an entry open to keep it.
func TestDeletedWhileOpen(t *testing.T) {
	c := open(t, "", &cache.Options{VerifyAge: -1})
	data, meta := contents(key("a"))
	store(t, c, cache.KindSegment, key("a"), data, meta)
	e := get(t, c, cache.KindSegment, key("a"))
	if err := c.Remove(cache.KindSegment, key("a")); err != nil {
		t.Fatal(err)
	}
	other := []byte("another file under the same name")
	store(t, c, cache.KindSegment, key("a"), other, nil)
	checkEntry(t, e, data, meta)
	checkEntry(t, get(t, c, cache.KindSegment, key("a")), other, nil)
}

// TestReplacedWhileOpen wants damage of an open file not to cost the good one that has its name by now.
func TestReplacedWhileOpen(t *testing.T) {
	c := open(t, "", &cache.Options{VerifyAge: -1})
	k := key("a")
	data := bytes.Repeat([]byte("data"), 1<<10)
	store(t, c, cache.KindSegment, k, data, nil)
	e := get(t, c, cache.KindSegment, k)
	flip(t, c.Path(cache.KindSegment, k), 5)
	if err := c.Remove(cache.KindSegment, k); err != nil {
		t.Fatal(err)
	}
	store(t, c, cache.KindSegment, k, data, nil)
	if err := e.Verify(t.Context()); !errors.Is(err, cache.ErrCorrupt) {
		t.Fatal(err)
	}
	checkEntry(t, get(t, c, cache.KindSegment, k), data, nil)
}

// TestReadErrors lets the file system fail a lookup: a stale handle is tried again once, anything else is a
// miss that costs nothing.
func TestReadErrors(t *testing.T) {
	for _, tt := range []struct {
		op    string
		err   error
		times int32
		hit   bool
	}{
		{"open", syscall.ESTALE, 1, true},
		{"open", syscall.ESTALE, 2, false},
		{"open", syscall.EIO, 1, false},
		{"read", syscall.ESTALE, 1, true},
		{"read", syscall.EIO, 1, false},
		{"read", io.EOF, 1, false},
	} {
		c := open(t, "", nil)
		store(t, c, cache.KindSegment, key("a"), []byte("data"), nil)
		var n atomic.Int32
		c.SetHook(func(op, path string, do func() error) error {
			if op == tt.op && n.Add(1) <= tt.times {
				return &fs.PathError{Op: op, Path: path, Err: tt.err}
			}
			return do()
		})
		e, err := c.Get(t.Context(), cache.KindSegment, key("a"))
		if err == nil {
			e.Close()
		}
		if hit := err == nil; hit != tt.hit || !hit && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s %v: %v", tt.op, tt.err, err)
		}
	}
}

// TestNegativeLookup is NFS, where a name that was missing stays so until its directory is opened.
func TestNegativeLookup(t *testing.T) {
	c := open(t, "", nil)
	c.SetBoot("boot", false)
	store(t, c, cache.KindSegment, key("a"), []byte("data"), nil)
	var n atomic.Int32
	c.SetHook(func(op, path string, do func() error) error {
		if op == "open" && n.Add(1) == 1 {
			return &fs.PathError{Op: op, Path: path, Err: syscall.ENOENT}
		}
		return do()
	})
	get(t, c, cache.KindSegment, key("a"))
}

// TestNoHardLinks is a file system without them.
func TestNoHardLinks(t *testing.T) {
	for _, err := range []error{syscall.EPERM, syscall.ENOTSUP, syscall.ENOSYS} {
		c := open(t, "", nil)
		c.SetHook(func(op, path string, do func() error) error {
			if op == "link" {
				return &os.LinkError{Op: op, Old: path, New: path, Err: err}
			}
			return do()
		})
		for range 2 {
			store(t, c, cache.KindSegment, key("a"), []byte("data"), []byte("meta"))
			checkEntry(t, get(t, c, cache.KindSegment, key("a")), []byte("data"), []byte("meta"))
		}
		noLeftovers(t, c.Dir())
	}
}

// TestAnswerToRetransmittedLink is NFS, where the answer to our own link, sent twice, may be that it exists.
func TestAnswerToRetransmittedLink(t *testing.T) {
	c := open(t, "", nil)
	c.SetHook(func(op, path string, do func() error) error {
		if err := do(); err != nil || op != "link" {
			return err
		}
		return &os.LinkError{Op: op, Old: path, New: path, Err: syscall.EEXIST}
	})
	store(t, c, cache.KindSegment, key("a"), []byte("data"), nil)
	if verified, _ := c.HasMark(cache.KindSegment, key("a")); !verified {
		t.Error("not taken for our own entry")
	}
	noLeftovers(t, filepath.Dir(c.Dir()))
}
