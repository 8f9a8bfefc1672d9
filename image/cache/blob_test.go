package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hpcimg/image/cache"
)

const mib = 1 << 20

// origin is where blobs come from: it counts what it gives, and can break off.
type origin struct {
	data  []byte
	calls atomic.Int32
	given atomic.Int64
	from  sync.Map              // offset → true
	stop  func(off int64) error // asked before each piece, if it is not nil
	cut   int64                 // where it breaks off, if not 0
}

func newOrigin(n int) *origin {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)}).Read(data)
	return &origin{data: data}
}

func (o *origin) key() string { return blobKey(o.data) }

func (o *origin) fetch(ctx context.Context, off int64) (io.ReadCloser, error) {
	o.calls.Add(1)
	o.from.Store(off, true)
	return &delivery{o, ctx, off}, nil
}

type delivery struct {
	*origin
	ctx context.Context
	off int64
}

func (d *delivery) Read(p []byte) (int, error) {
	if err := d.ctx.Err(); err != nil {
		return 0, err
	}
	if d.stop != nil {
		if err := d.stop(d.off); err != nil {
			return 0, err
		}
	}
	if d.off == int64(len(d.data)) {
		return 0, io.EOF
	}
	end := int64(len(d.data))
	if d.cut > 0 {
		end = d.cut
	}
	if d.off >= end {
		return 0, errCut
	}
	n := copy(p[:min(len(p), 64<<10)], d.data[d.off:end])
	d.off += int64(n)
	d.given.Add(int64(n))
	return n, nil
}

func (d *delivery) Close() error { return nil }

// readBlob reads a blob through the cache.
func readBlob(ctx context.Context, c *cache.Cache, o *origin) ([]byte, error) {
	rc, err := c.OpenBlob(ctx, o.key(), int64(len(o.data)), o.fetch)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}

func wantBlob(t testing.TB, c *cache.Cache, o *origin) {
	t.Helper()
	got, err := readBlob(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, o.data) {
		t.Fatalf("%d bytes, not the %d of the blob", len(got), len(o.data))
	}
}

func TestOpenBlob(t *testing.T) {
	for _, size := range []int{0, 1, 1000, mib - 1, mib, mib + 1, 5*mib + 77} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			c := open(t, "", nil)
			o := newOrigin(size)
			for range 3 {
				wantBlob(t, c, o)
			}
			if n := o.calls.Load(); size > 0 && n != 1 {
				t.Errorf("fetched %d times", n)
			}
			if size > 0 {
				checkEntry(t, get(t, c, cache.KindBlob, o.key()), o.data, nil)
			}
			noLeftovers(t, c.Dir())
		})
	}
}

func TestOpenBlobArguments(t *testing.T) {
	c := open(t, "", nil)
	o := newOrigin(1)
	for _, tc := range []struct {
		key  string
		size int64
	}{{"md5-00", 1}, {o.key(), -1}, {"../../etc", 1}} {
		if _, err := c.OpenBlob(t.Context(), tc.key, tc.size, o.fetch); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%v: %v", tc, err)
		}
	}
}

var errCut = errors.New("cut")

// TestResume breaks a download off everywhere and wants the next reader to fetch no more than what is missing and a MiB.
func TestResume(t *testing.T) {
	const size = 4*mib + 4321
	for _, cut := range []int64{1, mib - 1, mib, mib + 5, 3 * mib, 4 * mib, size - 1} {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			c := open(t, "", nil)
			o := newOrigin(size)
			o.cut = cut
			if _, err := readBlob(t.Context(), c, o); !errors.Is(err, errCut) {
				t.Fatalf("%v, want the error of the source", err)
			}
			miss(t, c, cache.KindBlob, o.key())
			o.cut = 0
			wantBlob(t, open(t, c.Dir(), nil), o)
			if twice := o.given.Load() - size; twice > mib {
				t.Errorf("%d bytes were fetched twice", twice)
			}
			noLeftovers(t, c.Dir())
		})
	}
}

// TestResumeDamaged changes what a broken download has left, and wants the blob all the same.
func TestResumeDamaged(t *testing.T) {
	const size = 4*mib + 4321
	resize := func(n int64) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := os.Truncate(path, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	flipped := func(off int64) func(*testing.T, string) {
		return func(t *testing.T, path string) { flip(t, path, off) }
	}
	removed := func(t *testing.T, path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	linked := func(t *testing.T, path string) {
		other := filepath.Join(t.TempDir(), "other")
		if err := errors.Join(os.Rename(path, other), os.Symlink(other, path)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name        string
		data, sums  func(*testing.T, string)
		again, from int64 // MiB fetched again, and the first offset
	}{
		{"untouched", nil, nil, 0, 3 * mib},
		{"first MiB", flipped(17), nil, 1, 0},
		{"second MiB", flipped(mib + 17), nil, 1, mib},
		{"behind what has checksums", resize(size + 5), nil, 0, 3 * mib},
		{"shorter", resize(mib + 5), nil, 2, mib},
		{"zeros, as after a power cut", func(t *testing.T, path string) { resize(mib)(t, path); resize(3*mib)(t, path) }, nil, 2, mib},
		{"empty", resize(0), nil, 3, 0},
		{"data gone", removed, nil, 3, 0},
		{"link", linked, nil, 3, 0},
		{"writable by all", func(t *testing.T, path string) { chmod(t, path, 0o666) }, nil, 3, 0},
		{"checksums gone", nil, removed, 3, 0},
		{"checksums a link", nil, linked, 3, 0},
		{"checksums empty", nil, resize(0), 3, 0},
		{"no checksum", nil, resize(256), 3, 0},
		{"one checksum and a half", nil, resize(256 + 12), 2, mib},
		{"checksum of the second", nil, flipped(256 + 8), 1, mib},
		{"header", nil, flipped(3), 3, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := open(t, "", nil)
			o := newOrigin(size)
			o.cut = 3*mib + 100
			if _, err := readBlob(t.Context(), c, o); !errors.Is(err, errCut) {
				t.Fatal(err)
			}
			path := filepath.Join(filepath.Dir(c.Path(cache.KindBlob, o.key())), ".resume-"+o.key())
			if tc.data != nil {
				tc.data(t, path)
			}
			if tc.sums != nil {
				tc.sums(t, path+".sums")
			}
			o.cut = 0
			before := o.given.Load()
			o.from.Clear()
			wantBlob(t, c, o)
			if _, ok := o.from.Load(tc.from); !ok {
				t.Errorf("nothing was fetched from %d on", tc.from)
			}
			// A repair goes on while what comes behind it is on its way.
			if got, want := o.given.Load()-before, size-3*mib+tc.again*mib; got < want || got > want+2*mib {
				t.Errorf("%d bytes were fetched, want %d", got, want)
			}
			checkEntry(t, get(t, c, cache.KindBlob, o.key()), o.data, nil)
			noLeftovers(t, c.Dir())
		})
	}
}

// TestWrongBlob wants bytes that have not the digest to be an error, and nothing of them to stay.
func TestWrongBlob(t *testing.T) {
	c := open(t, "", nil)
	o := newOrigin(2*mib + 5)
	key := o.key()
	right := o.data
	o.data = bytes.Clone(right)
	o.data[mib+3] ^= 1
	rc, err := c.OpenBlob(t.Context(), key, int64(len(right)), o.fetch)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(rc)
	corrupt, ok := errors.AsType[*cache.CorruptError](err)
	if !ok || corrupt.Key != key || corrupt.Got != blobKey(o.data) || len(got) != len(right) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	rc.Close()
	miss(t, c, cache.KindBlob, key)
	noLeftovers(t, c.Dir())
	o.data = right
	wantBlob(t, c, o)
}

// TestDamagedEntryIsFetchedAgain wants an entry that is damaged on the disk to cost a download and no more.
func TestDamagedEntryIsFetchedAgain(t *testing.T) {
	c := open(t, "", nil)
	o := newOrigin(mib + 5)
	wantBlob(t, c, o)
	flip(t, c.Path(cache.KindBlob, o.key()), 100)
	wantBlob(t, c, o)
	if n := o.calls.Load(); n != 2 {
		t.Errorf("fetched %d times", n)
	}
}

// TestReadAlong wants many readers of one blob to get it from one download, those who come late from its beginning.
func TestReadAlong(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	o := newOrigin(8*mib + 99)
	gate := make(chan struct{})
	o.stop = func(off int64) error {
		if off == 4*mib {
			<-gate // half of it is there
		}
		return nil
	}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			c, err := cache.Open(dir, nil)
			if err != nil {
				t.Error(err)
				return
			}
			rc, err := c.OpenBlob(t.Context(), o.key(), int64(len(o.data)), o.fetch)
			if err != nil {
				t.Error(err)
				return
			}
			defer rc.Close()
			half := make([]byte, 4*mib)
			if _, err := io.ReadFull(rc, half); err != nil || !bytes.Equal(half, o.data[:4*mib]) {
				t.Errorf("reader %d: first half: %v", i, err)
			}
			if i == 39 {
				close(gate)
			}
			rest, err := io.ReadAll(rc)
			if err != nil || !bytes.Equal(rest, o.data[4*mib:]) {
				t.Errorf("reader %d: second half: %v", i, err)
			}
		})
	}
	wg.Wait()
	if n := o.given.Load(); n != int64(len(o.data)) {
		t.Errorf("the source gave %d bytes for a blob of %d", n, len(o.data))
	}
	noLeftovers(t, dir)
}

// TestLeaderLeaves wants the next reader to go on when the one who fetches gives up.
func TestLeaderLeaves(t *testing.T) {
	c := open(t, "", nil)
	o := newOrigin(6 * mib)
	gate := make(chan struct{})
	o.stop = func(off int64) error {
		if off == 3*mib {
			select {
			case <-gate:
			case <-time.After(100 * time.Millisecond): // the leader has to be able to leave
			}
		}
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	leader, err := c.OpenBlob(ctx, o.key(), int64(len(o.data)), o.fetch)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(leader, make([]byte, mib)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		got, err := readBlob(t.Context(), c, o)
		if err == nil && !bytes.Equal(got, o.data) {
			err = errors.New("other bytes")
		}
		done <- err
	}()
	time.Sleep(30 * time.Millisecond)
	cancel()
	if _, err := io.ReadAll(leader); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled reader: %v", err)
	}
	leader.Close()
	close(gate)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if twice := o.given.Load() - int64(len(o.data)); twice > mib+64<<10 {
		t.Errorf("%d bytes were fetched twice", twice)
	}
	noLeftovers(t, c.Dir())
}

// TestCloseWhileReading wants Close to end a Read that waits.
func TestCloseWhileReading(t *testing.T) {
	c := open(t, "", nil)
	o := newOrigin(2 * mib)
	rc, err := c.OpenBlob(t.Context(), o.key(), int64(len(o.data)), func(ctx context.Context, off int64) (io.ReadCloser, error) {
		return io.NopCloser(blocked{ctx}), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(30*time.Millisecond, func() { rc.Close() })
	if _, err := rc.Read(make([]byte, 10)); err == nil {
		t.Error("read something from nothing")
	}
	if _, err := rc.Read(make([]byte, 10)); err == nil {
		t.Error("read something from what is closed")
	}
}

type blocked struct{ ctx context.Context }

func (b blocked) Read([]byte) (int, error) { <-b.ctx.Done(); return 0, b.ctx.Err() }

// TestBlobTrouble lets each operation on the cache's files fail, one after the other, and wants the blob all the same.
func TestBlobTrouble(t *testing.T) {
	o := newOrigin(2*mib + 7)
	for k := 0; ; k++ {
		c := open(t, "", nil)
		var n atomic.Int32
		var over atomic.Bool
		failed := ""
		interpose(c, func(op, path string, do func() error) error {
			if int(n.Add(1)) == k+1 && !over.Load() {
				failed = op + " " + filepath.Base(path)
				return errors.New("trouble")
			}
			return do()
		})
		if got, err := readBlob(t.Context(), c, o); err != nil || !bytes.Equal(got, o.data) {
			t.Fatalf("%d: %s: %d bytes, %v", k, failed, len(got), err)
		}
		total := int(n.Load())
		over.Store(true)
		wantBlob(t, c, o)
		if total <= k {
			t.Logf("%d operations", k)
			return
		}
	}
}

func TestBlobWithoutHardLinks(t *testing.T) {
	c := open(t, "", nil)
	interpose(c, func(op, _ string, do func() error) error {
		if op == "link" {
			return errors.ErrUnsupported
		}
		return do()
	})
	o := newOrigin(3 * mib)
	wantBlob(t, c, o)
	wantBlob(t, c, o)
	if n := o.calls.Load(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	noLeftovers(t, c.Dir())
}

// TestPartsAreCleaned wants beginnings of blobs to go when they are old, or when there is too much.
func TestPartsAreCleaned(t *testing.T) {
	for _, tc := range []struct {
		name string
		age  time.Duration
		opts cache.CleanOptions
		gone bool
	}{
		{"new", 0, cache.CleanOptions{}, false},
		{"two days", 48 * time.Hour, cache.CleanOptions{}, false},
		{"four days", 96 * time.Hour, cache.CleanOptions{}, true},
		{"four days, dry", 96 * time.Hour, cache.CleanOptions{DryRun: true}, false},
		{"too much, now", 0, cache.CleanOptions{MaxSize: 10}, false},
		{"too much, two hours", 2 * time.Hour, cache.CleanOptions{MaxSize: 10}, true},
		{"enough, two hours", 2 * time.Hour, cache.CleanOptions{MaxSize: 10 * mib}, false},
		{"all", 0, cache.CleanOptions{All: true}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := open(t, "", nil)
			o := newOrigin(3 * mib)
			o.cut = 2 * mib
			_, _ = readBlob(t.Context(), c, o)
			path := filepath.Join(filepath.Dir(c.Path(cache.KindBlob, o.key())), ".resume-"+o.key())
			at := time.Now().Add(-tc.age)
			for _, p := range []string{path, path + ".sums"} {
				if err := os.Chtimes(p, at, at); err != nil {
					t.Fatal(err)
				}
			}
			result, err := c.Clean(t.Context(), &tc.opts)
			if err != nil {
				t.Fatal(err)
			}
			_, statErr := os.Stat(path)
			if gone := errors.Is(statErr, fs.ErrNotExist); gone != tc.gone || (result.Leftovers > 0) != (tc.gone || tc.opts.DryRun) {
				t.Errorf("gone %v, %+v", gone, result)
			}
			o.cut = 0
			wantBlob(t, c, o)
		})
	}
}

// FuzzPart: whatever is found of a blob, its readers get the blob or are told that they did not, and the next one gets it.
func FuzzPart(f *testing.F) {
	o := newOrigin(2*mib + 100)
	header := fmt.Appendf(nil, "hpcimg-part 1 %s %d\n", o.key(), len(o.data))
	f.Add(append(header, make([]byte, 256)...), 0, uint32(0))
	f.Add([]byte{}, mib, uint32(7))
	f.Add([]byte("hpcimg-part 2"), 2*mib, uint32(mib))
	c := open(f, "", nil)
	o.cut = 2 * mib
	_, _ = readBlob(context.Background(), c, o)
	path := filepath.Join(filepath.Dir(c.Path(cache.KindBlob, o.key())), ".resume-"+o.key())
	good, err := os.ReadFile(path + ".sums")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, 2*mib, uint32(0))
	f.Add(good, mib+1, uint32(5))
	o.cut = 0
	f.Fuzz(func(t *testing.T, sums []byte, length int, flipAt uint32) {
		data := bytes.Clone(o.data[:max(0, min(length, len(o.data)))])
		if len(data) > 0 {
			data[int(flipAt)%len(data)] ^= byte(flipAt >> 24)
		}
		if err := errors.Join(os.WriteFile(path, data, 0o600), os.WriteFile(path+".sums", sums, 0o600)); err != nil {
			t.Fatal(err)
		}
		got, err := readBlob(t.Context(), c, o)
		if err == nil && !bytes.Equal(got, o.data) || err != nil && !errors.Is(err, cache.ErrCorrupt) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		if err != nil {
			wantBlob(t, c, o)
		}
		if err := c.Remove(cache.KindBlob, o.key()); err != nil {
			t.Fatal(err)
		}
	})
}
