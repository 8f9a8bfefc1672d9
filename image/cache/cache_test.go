package cache_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hpcimg/image/cache"
)

// open opens a cache in dir, or in a new directory if that is "".
func open(t testing.TB, dir string, opts *cache.Options) *cache.Cache {
	t.Helper()
	if dir == "" {
		dir = filepath.Join(t.TempDir(), "cache")
	}
	c, err := cache.Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// key makes a key from a word.
func key(word string) string {
	sum := sha256.Sum256([]byte(word))
	return hex.EncodeToString(sum[:])
}

// contents are the data and metadata that belong to a key: every process of a test knows them.
func contents(key string) (data, meta []byte) {
	sum := sha256.Sum256([]byte(key))
	src := rand.NewChaCha8(sum)
	data = make([]byte, int(sum[0])<<13+int(sum[1])) // 0 to 2 MiB
	src.Read(data)
	meta = make([]byte, int(sum[2])*16)
	src.Read(meta)
	return data, meta
}

func blobKey(data []byte) string { return fmt.Sprintf("sha256-%x", sha256.Sum256(data)) }

// store makes an entry and returns it open.
func store(t testing.TB, c *cache.Cache, kind cache.Kind, key string, data, meta []byte) *cache.Entry {
	t.Helper()
	e, err := tryStore(c, kind, key, data, meta)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func tryStore(c *cache.Cache, kind cache.Kind, key string, data, meta []byte) (*cache.Entry, error) {
	w, err := c.Create(kind, key)
	if err != nil {
		return nil, err
	}
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	return w.Commit(context.Background(), int64(len(data)), meta)
}

// get opens an entry that must be there.
func get(t testing.TB, c *cache.Cache, kind cache.Kind, key string) *cache.Entry {
	t.Helper()
	e, err := c.Get(context.Background(), kind, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// miss wants an entry not to be there.
func miss(t testing.TB, c *cache.Cache, kind cache.Kind, key string) {
	t.Helper()
	e, err := c.Get(context.Background(), kind, key)
	if err == nil {
		e.Close()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%s %s: %v, want a miss", kind, key, err)
	}
}

// checkEntry wants an entry to verify and to hold data and meta.
func checkEntry(t testing.TB, e *cache.Entry, data, meta []byte) {
	t.Helper()
	if err := compareEntry(e, data, meta); err != nil {
		t.Fatal(err)
	}
}

func compareEntry(e *cache.Entry, data, meta []byte) error {
	if err := e.Verify(context.Background()); err != nil {
		return err
	}
	got, err := io.ReadAll(io.NewSectionReader(e, 0, 1<<40))
	switch {
	case err != nil:
		return err
	case e.Size() != int64(len(data)) || !bytes.Equal(got, data):
		return fmt.Errorf("%d bytes of data, not the %d that were stored", len(got), len(data))
	case !bytes.Equal(e.Meta(), meta):
		return fmt.Errorf("%d bytes of metadata, not the %d that were stored", len(e.Meta()), len(meta))
	}
	return nil
}

// tree lists the files below dir but for the tag and the stamp.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if rel != "CACHEDIR.TAG" && rel != filepath.Join("v1", "cleaned") {
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// noLeftovers wants no temporary files and leases.
func noLeftovers(t testing.TB, dir string) {
	t.Helper()
	for _, name := range tree(t, dir) {
		if strings.HasPrefix(filepath.Base(name), ".") {
			t.Errorf("left: %s", name)
		}
	}
}

func TestBadArguments(t *testing.T) {
	ctx := t.Context()
	c := open(t, "", nil)
	for _, tt := range []struct {
		kind cache.Kind
		key  string
	}{
		{"tree", key("a")},
		{"", key("a")},
		{cache.KindIndex, ""},
		{cache.KindIndex, "short"},
		{cache.KindIndex, "../../../etc/passwd"},
		{cache.KindIndex, "ABCDEFGHIJ"},
		{cache.KindIndex, "abcdefgh.used"},
		{cache.KindIndex, strings.Repeat("a", 161)},
		{cache.KindBlob, key("a")},
		{cache.KindBlob, "sha256-" + key("a")[1:]},
		{cache.KindBlob, "sha256-" + strings.Repeat("x", 64)},
		{cache.KindBlob, "sha512-" + key("a")},
		{cache.KindBlob, "md5-" + key("a")},
	} {
		_, getErr := c.Get(ctx, tt.kind, tt.key)
		_, createErr := c.Create(tt.kind, tt.key)
		for _, err := range []error{getErr, createErr, c.Remove(tt.kind, tt.key)} {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%s %q: %v", tt.kind, tt.key, err)
			}
		}
	}
	for _, prefix := range []string{"", "abcdefg", "../../../..", "abcdefgh/"} {
		if _, err := c.Keys(ctx, cache.KindIndex, prefix); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("prefix %q: %v", prefix, err)
		}
	}
	if _, err := cache.Open("", nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("open: %v", err)
	}
	w, err := c.Create(cache.KindIndex, key("a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(ctx, -1, nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("commit: %v", err)
	}
	w, err = c.Create(cache.KindIndex, key("a"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Commit(ctx, 0, make([]byte, 256<<20+1))
	if limit, ok := errors.AsType[*cache.LimitError](err); !ok || limit.Limit != 256<<20 || !errors.Is(err, cache.ErrLimit) {
		t.Errorf("commit: %v", err)
	}
	noLeftovers(t, c.Dir())
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := open(t, "", nil)
	data, meta := contents(key("a"))
	store(t, c, cache.KindSegment, key("a"), data, meta)
	e := get(t, open(t, c.Dir(), &cache.Options{VerifyAge: -1}), cache.KindSegment, key("a"))
	w, err := c.Create(cache.KindSegment, key("b"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("data")); err != nil {
		t.Fatal(err)
	}
	cancel()
	_, commitErr := w.Commit(ctx, 4, nil)
	_, getErr := c.Get(ctx, cache.KindSegment, key("a"))
	_, keysErr := c.Keys(ctx, cache.KindSegment, key("a"))
	_, listErr := c.List(ctx)
	_, cleanErr := c.Clean(ctx, nil)
	_, verifyErr := c.Verify(ctx, nil)
	for i, err := range []error{commitErr, getErr, keysErr, listErr, cleanErr, verifyErr, e.Verify(ctx)} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%d: %v", i, err)
		}
	}
	noLeftovers(t, c.Dir())
	get(t, c, cache.KindSegment, key("a"))
}

func TestKeys(t *testing.T) {
	ctx := t.Context()
	site, own := open(t, "", nil), filepath.Join(t.TempDir(), "cache")
	c := open(t, own, &cache.Options{Site: []string{site.Dir()}})
	for _, k := range []string{"aabbccdd-1", "aabbccdd-2", "aabbccde-1", "aacbccdd-1"} {
		store(t, c, cache.KindSegment, k, nil, nil)
	}
	for _, k := range []string{"aabbccdd-0", "aabbccdd-1"} {
		store(t, site, cache.KindSegment, k, nil, nil)
	}
	store(t, c, cache.KindIndex, "aabbccdd-9", nil, nil)
	got, err := c.Keys(ctx, cache.KindSegment, "aabbccdd")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"aabbccdd-0", "aabbccdd-1", "aabbccdd-2"}, got); diff != "" {
		t.Error(diff)
	}
	if got, err := c.Keys(ctx, cache.KindSegment, "ffffffff"); err != nil || len(got) > 0 {
		t.Errorf("%q, %v", got, err)
	}
	blob := blobKey(nil)
	store(t, c, cache.KindBlob, blob, nil, nil)
	for _, prefix := range []string{blob, blob[:8], blob[:9], blob[:20]} {
		if got, err := c.Keys(ctx, cache.KindBlob, prefix); err != nil || len(got) != 1 || got[0] != blob {
			t.Errorf("%s: %q, %v", prefix, got, err)
		}
	}
}

func TestUntrustedDirectory(t *testing.T) {
	for _, mode := range []fs.FileMode{0o777, 0o770, 0o702, 0o1777} {
		dir := t.TempDir()
		if err := os.Chmod(dir, mode.Perm()); err != nil {
			t.Fatal(err)
		}
		for _, opts := range []*cache.Options{nil, {Site: []string{dir}}} {
			own := dir
			if opts != nil {
				own = filepath.Join(t.TempDir(), "own")
			}
			_, err := cache.Open(own, opts)
			untrusted, ok := errors.AsType[*cache.UntrustedError](err)
			if !ok || !errors.Is(err, cache.ErrUntrusted) || untrusted.Path != dir || !strings.Contains(err.Error(), "chmod go-w") {
				t.Errorf("mode %o: %v", mode, err)
			}
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := cache.Open(file, nil); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file: %v", err)
	}
}

func TestModes(t *testing.T) {
	for _, tt := range []struct{ dir, sub, file fs.FileMode }{
		{0o700, 0o700, 0o400},
		{0o750, 0o750, 0o440},
		{0o755, 0o755, 0o444},
	} {
		dir := t.TempDir()
		if err := os.Chmod(dir, tt.dir); err != nil {
			t.Fatal(err)
		}
		c := open(t, dir, nil)
		store(t, c, cache.KindIndex, key("a"), nil, nil)
		path := c.Path(cache.KindIndex, key("a"))
		for name, want := range map[string]fs.FileMode{filepath.Dir(path): tt.sub, path: tt.file} {
			if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
				t.Errorf("%o: %s: %v %v", tt.dir, name, info.Mode(), err)
			}
		}
		if info, err := os.Stat(path + ".used"); err != nil || info.Mode().Perm()&0o077 != tt.file&0o077 {
			t.Errorf("%o: side file: %v %v", tt.dir, info.Mode(), err)
		}
	}
	c := open(t, "", nil)
	if info, err := os.Stat(c.Dir()); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info, err)
	}
}

func TestSiteTier(t *testing.T) {
	ctx := t.Context()
	site := open(t, "", nil)
	data, meta := contents(key("a"))
	store(t, site, cache.KindSegment, key("a"), data, meta)
	store(t, site, cache.KindSegment, key("b"), data, meta)
	flip(t, site.Path(cache.KindSegment, key("b")), 100)
	store(t, site, cache.KindIndex, key("c"), data, meta)
	flip(t, site.Path(cache.KindIndex, key("c")), -1)
	before := snapshot(t, site.Dir())

	c := open(t, "", &cache.Options{Site: []string{filepath.Join(t.TempDir(), "absent"), site.Dir()}, VerifyAge: time.Hour})
	checkEntry(t, get(t, c, cache.KindSegment, key("a")), data, meta)
	err := get(t, c, cache.KindSegment, key("b")).Verify(ctx)
	if corrupt, ok := errors.AsType[*cache.CorruptError](err); !ok || corrupt.Tier != site.Dir() {
		t.Errorf("damaged entry of the site: %v", err)
	}
	miss(t, c, cache.KindIndex, key("c"))
	if _, err := c.Clean(ctx, &cache.CleanOptions{All: true}); err != nil {
		t.Fatal(err)
	}
	result, err := c.Verify(ctx, nil)
	if err != nil || result.Entries != 1 || len(result.Corrupt) != 2 {
		t.Errorf("%+v, %v", result, err)
	}
	infos, err := c.List(ctx)
	if err != nil || len(infos) != 3 || !infos[0].Site || infos[0].Tier != site.Dir() {
		t.Errorf("%+v, %v", infos, err)
	}
	if diff := cmp.Diff(before, snapshot(t, site.Dir())); diff != "" {
		t.Errorf("the site's directory has changed: %s", diff)
	}
	// One's own comes first, and is stored although the site has it.
	store(t, c, cache.KindSegment, key("b"), data, meta)
	checkEntry(t, get(t, c, cache.KindSegment, key("b")), data, meta)
}

// snapshot is names, sizes and times of what is below a directory.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		m[path] = fmt.Sprint(info.Mode(), info.Size(), info.ModTime())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// flip changes a byte of a file; a negative offset counts from the end.
func flip(t testing.TB, path string, off int64) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if off < 0 {
		off += info.Size()
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
}

// logged is a logger and what it heard.
func logged() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(&b, nil)), &b
}
