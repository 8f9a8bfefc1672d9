package cache_test

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"testing"
	"time"

	"hpcimg/image/cache"
)

func TestVerifyRange(t *testing.T) {
	ctx := t.Context()
	data := make([]byte, 4<<20+5)
	c := open(t, "", &cache.Options{VerifyAge: -1})
	store(t, c, cache.KindSegment, key("a"), data, nil)
	flip(t, c.Path(cache.KindSegment, key("a")), 2<<20)
	e := get(t, c, cache.KindSegment, key("a"))
	for _, r := range [][2]int64{{0, 2 << 20}, {3 << 20, 1<<20 + 5}, {0, 0}, {4<<20 + 5, 0}} {
		if err := e.VerifyRange(ctx, r[0], r[1]); err != nil {
			t.Errorf("%d: %v", r, err)
		}
	}
	for _, r := range [][2]int64{{-1, 1}, {0, -1}, {0, 4<<20 + 6}, {4<<20 + 6, 0}, {1 << 62, 1 << 62}} {
		if err := e.VerifyRange(ctx, r[0], r[1]); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%d: %v", r, err)
		}
	}
	if err := e.VerifyRange(ctx, 3<<20-1, 1); !errors.Is(err, cache.ErrCorrupt) {
		t.Error(err)
	}
}

// TestMarks is about when data is believed without being read: the entry is damaged behind the back of its
// mark, as a disk would do it.
func TestMarks(t *testing.T) {
	const boot, other = "boot-1", "boot-2"
	now := time.Now()
	for _, tt := range []struct {
		name     string
		age      time.Duration // Options.VerifyAge
		verified time.Time
		boot     string // of the mark
		local    bool
		believed bool
	}{
		{"just verified", 0, now, "", true, true},
		{"six days ago", 0, now.Add(-6 * 24 * time.Hour), "", true, true},
		{"eight days ago", 0, now.Add(-8 * 24 * time.Hour), "", true, false},
		{"an hour ago of two", 2 * time.Hour, now.Add(-time.Hour), "", false, true},
		{"three hours ago of two", 2 * time.Hour, now.Add(-3 * time.Hour), "", false, false},
		{"always", -1, now, "", true, false},
		{"in an hour", 0, now.Add(time.Hour), "", true, true},
		{"in a week", 0, now.Add(7 * 24 * time.Hour), "", true, false},
		{"never", 0, time.Time{}, "", true, false},
		{"unsynced, this boot", 0, now.Add(-time.Minute), boot, true, true},
		{"unsynced, another boot", 0, now.Add(-time.Minute), other, true, false},
		{"unsynced, two hours ago", 0, now.Add(-2 * time.Hour), boot, true, false},
		{"unsynced, not local", 0, now.Add(-time.Minute), boot, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := open(t, "", &cache.Options{VerifyAge: tt.age})
			c.SetBoot(boot, tt.local)
			store(t, c, cache.KindSegment, key("a"), []byte("data"), nil)
			flip(t, c.Path(cache.KindSegment, key("a")), 2)
			e := get(t, c, cache.KindSegment, key("a"))
			c.ForgeMark(e, tt.verified, tt.boot)
			if err := e.Verify(t.Context()); (err == nil) != tt.believed {
				t.Errorf("verify: %v", err)
			}
		})
	}
}

// TestMarkOfAnotherFile wants a mark to be good for the very file that was verified.
func TestMarkOfAnotherFile(t *testing.T) {
	c := open(t, "", nil)
	store(t, c, cache.KindSegment, key("a"), []byte("data"), nil)
	path := c.Path(cache.KindSegment, key("a"))
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	flip(t, path, 2)
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if err := get(t, c, cache.KindSegment, key("a")).Verify(t.Context()); !errors.Is(err, cache.ErrCorrupt) {
		t.Errorf("same size and time: %v", err)
	}
}

// TestSyncing wants data to be synced unless the file system is local, and the mark to be bound to the boot
// only if it was not; later the mark is replaced by a lasting one, after the data was read and synced.
func TestSyncing(t *testing.T) {
	for _, local := range []bool{false, true} {
		c := open(t, "", nil)
		c.SetBoot("boot-1", local)
		syncs := 0
		c.SetHook(func(op, _ string, do func() error) error {
			if op == "sync" {
				syncs++
			}
			return do()
		})
		store(t, c, cache.KindSegment, key("a"), []byte("data"), nil)
		if verified, bound := c.HasMark(cache.KindSegment, key("a")); !verified || bound != local || (syncs > 0) == local {
			t.Errorf("local %v: verified %v, bound to the boot %v, %d syncs", local, verified, bound, syncs)
		}
		before := syncs
		c.SetBoot("boot-2", local)
		if err := get(t, c, cache.KindSegment, key("a")).Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		verified, bound := c.HasMark(cache.KindSegment, key("a"))
		if synced := syncs > before; !verified || bound || synced != local {
			t.Errorf("local %v, second boot: verified %v, bound to the boot %v, synced %v", local, verified, bound, synced)
		}
	}
	// What another system may not have written yet is not marked, nor what cannot be synced.
	c := open(t, "", nil)
	c.SetBoot("boot-1", true)
	store(t, c, cache.KindSegment, key("a"), []byte("data"), nil)
	c.SetBoot("boot-2", false)
	if err := get(t, c, cache.KindSegment, key("a")).Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, bound := c.HasMark(cache.KindSegment, key("a")); !bound {
		t.Error("marked for good what only another system has in its memory")
	}
	c.SetBoot("boot-2", true)
	c.SetHook(func(op, _ string, do func() error) error {
		if op == "sync" {
			return syscall.EIO
		}
		return do()
	})
	if err := get(t, c, cache.KindSegment, key("a")).Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, bound := c.HasMark(cache.KindSegment, key("a")); !bound {
		t.Error("marked for good what could not be synced")
	}
}

func TestVerifyAll(t *testing.T) {
	c := open(t, "", nil)
	var total int64
	for _, name := range []string{"a", "b", "c", "d"} {
		data, meta := contents(key(name))
		store(t, c, cache.KindSegment, key(name), data, meta)
		total += int64(len(data))
	}
	blob := []byte("blob")
	store(t, c, cache.KindBlob, blobKey(blob), blob, nil)
	e := get(t, c, cache.KindSegment, key("b"))
	flip(t, c.Path(cache.KindSegment, key("b")), 10)
	damaged, _ := contents(key("b"))
	c.ForgeMark(get(t, c, cache.KindSegment, key("b")), time.Now(), "") // not believed
	flip(t, c.Path(cache.KindSegment, key("c")), -1)
	short, _ := contents(key("c"))
	var last, calls int64
	result, err := c.Verify(t.Context(), func(done, total int64) {
		if done < last || done > total {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last = done
		calls++
	})
	if err != nil {
		t.Fatal(err)
	}
	want := total + int64(len(blob)-len(damaged)-len(short))
	if result.Entries != 3 || result.Size != want || len(result.Corrupt) != 2 || calls == 0 {
		t.Errorf("%+v, want 3 entries of %d bytes and 2 damaged", result, want)
	}
	miss(t, c, cache.KindSegment, key("b"))
	miss(t, c, cache.KindSegment, key("c"))
	e.Close()
	if result, err := c.Verify(t.Context(), nil); err != nil || result.Entries != 3 || len(result.Corrupt) != 0 {
		t.Errorf("second time: %+v, %v", result, err)
	}
}
