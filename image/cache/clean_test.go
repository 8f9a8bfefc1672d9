package cache_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hpcimg/image/cache"
)

// aged fills a cache with entries of 4096 bytes and a footer, named after the hours since their last use.
func aged(t *testing.T, c *cache.Cache, hours ...int) {
	t.Helper()
	for _, h := range hours {
		k := fmt.Sprintf("hours-%04d", h)
		e := store(t, c, cache.KindSegment, k, make([]byte, 4096-288), nil)
		e.Close()
		setUsed(t, c, k, time.Duration(h)*time.Hour)
	}
}

func setUsed(t *testing.T, c *cache.Cache, k string, ago time.Duration) {
	t.Helper()
	then := time.Now().Add(-ago - time.Minute)
	path := c.Path(cache.KindSegment, k)
	for _, p := range []string{path, path + ".used"} {
		if err := os.Chtimes(p, then, then); err != nil {
			t.Fatal(err)
		}
	}
}

func keysOf(infos []cache.Info) []string {
	keys := []string{}
	for _, info := range infos {
		keys = append(keys, info.Key)
	}
	return keys
}

const agedSize = 4096 + 288 // of an entry of aged

func TestClean(t *testing.T) {
	const day = 24 * time.Hour
	for _, tt := range []struct {
		name    string
		opts    *cache.CleanOptions
		removed []string
	}{
		{"default limit", nil, []string{}},
		{"no limit", &cache.CleanOptions{MaxSize: -1}, []string{}},
		{"two fit", &cache.CleanOptions{MaxSize: 2 * agedSize}, []string{"hours-0999", "hours-0050"}},
		{"a byte less", &cache.CleanOptions{MaxSize: 3*agedSize - 1}, []string{"hours-0999", "hours-0050"}},
		{"none fits", &cache.CleanOptions{MaxSize: 1}, []string{"hours-0999", "hours-0050", "hours-0010"}},
		{"age", &cache.CleanOptions{MaxAge: 2 * day}, []string{"hours-0999", "hours-0050"}},
		{"no age is young enough", &cache.CleanOptions{MaxAge: time.Nanosecond}, []string{"hours-0999", "hours-0050", "hours-0010"}},
		{"both", &cache.CleanOptions{MaxAge: 30 * day, MaxSize: 3 * agedSize}, []string{"hours-0999"}},
		{"all", &cache.CleanOptions{All: true}, []string{"hours-0999", "hours-0050", "hours-0010", "hours-0000"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, dry := range []bool{true, false} {
				c := open(t, "", nil)
				aged(t, c, 10, 999, 0, 50)
				var opts *cache.CleanOptions
				if tt.opts != nil || dry {
					o := cache.CleanOptions{}
					if tt.opts != nil {
						o = *tt.opts
					}
					o.DryRun = dry
					opts = &o
				}
				result, err := c.Clean(t.Context(), opts)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.removed, keysOf(result.Removed)); diff != "" {
					t.Error(diff)
				}
				n := len(tt.removed)
				if result.Freed != int64(n)*agedSize || result.Kept != 4-n || result.KeptSize != int64(4-n)*agedSize || result.Leftovers != 0 {
					t.Errorf("%+v", result)
				}
				for _, k := range []string{"hours-0999", "hours-0050", "hours-0010", "hours-0000"} {
					_, err := os.Stat(c.Path(cache.KindSegment, k))
					if gone := !dry && strings.Contains(fmt.Sprint(tt.removed), k); gone != (err != nil) {
						t.Errorf("dry %v: %s: %v", dry, k, err)
					}
				}
				if !dry && n == 4 {
					if names := tree(t, c.Dir()); len(names) > 0 {
						t.Errorf("left: %q", names)
					}
				}
			}
		})
	}
}

// TestUse wants a Get to count as a use.
func TestUse(t *testing.T) {
	c := open(t, "", nil)
	aged(t, c, 30, 20, 10)
	if _, err := c.Verify(t.Context(), nil); err != nil { // is none
		t.Fatal(err)
	}
	get(t, c, cache.KindSegment, "hours-0020")
	infos, err := c.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"hours-0030", "hours-0010", "hours-0020"}, keysOf(infos)); diff != "" {
		t.Error(diff)
	}
	if infos[0].Size != agedSize || infos[0].Kind != cache.KindSegment || infos[0].Tier != c.Dir() || infos[0].Site {
		t.Errorf("%+v", infos[0])
	}
	if err := os.Remove(c.Path(cache.KindSegment, "hours-0030") + ".used"); err != nil {
		t.Fatal(err)
	}
	get(t, c, cache.KindSegment, "hours-0030")
	result, err := c.Clean(t.Context(), &cache.CleanOptions{MaxSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"hours-0010"}, keysOf(result.Removed)); diff != "" {
		t.Error(diff)
	}
}

// TestEviction wants Commit to keep the cache within its size, once an hour.
func TestEviction(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	opts := &cache.Options{MaxSize: 2 * agedSize}
	fill := open(t, dir, &cache.Options{MaxSize: -1})
	aged(t, fill, 30, 20, 10)
	list := func() []string {
		infos, err := fill.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return keysOf(infos)
	}
	store(t, open(t, dir, opts), cache.KindSegment, "new-entry-1", make([]byte, 4096-288), nil)
	if diff := cmp.Diff([]string{"hours-0010", "new-entry-1"}, list()); diff != "" {
		t.Error(diff)
	}
	aged(t, fill, 30)
	store(t, open(t, dir, opts), cache.KindSegment, "new-entry-2", nil, nil)
	if got := list(); len(got) != 4 {
		t.Errorf("cleaned twice in an hour: %q", got)
	}
	old := time.Now().Add(-61 * time.Minute)
	if err := os.Chtimes(filepath.Join(dir, "v1", "cleaned"), old, old); err != nil {
		t.Fatal(err)
	}
	store(t, open(t, dir, opts), cache.KindSegment, "new-entry-3", nil, nil)
	if diff := cmp.Diff([]string{"new-entry-1", "new-entry-2", "new-entry-3"}, list()); diff != "" {
		t.Error(diff)
	}
}

// TestLeftovers wants what dead processes left to be removed, and nothing of the living.
func TestLeftovers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	c := open(t, dir, nil)
	alive, err := c.Create(cache.KindSegment, key("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Abort()
	release, err := c.Once(t.Context(), "alive", never)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	keep := len(tree(t, dir))

	dead := open(t, dir, nil)
	dead.SetPID(nobody)
	elsewhere := open(t, dir, nil)
	elsewhere.SetHost("elsewhere.0")
	for _, other := range []*cache.Cache{dead, elsewhere} {
		w, err := other.Create(cache.KindSegment, key("a"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { w.Abort() })
		name := fmt.Sprintf("%p", other)
		release, err := other.Once(t.Context(), name, never)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(release)
	}
	for _, days := range []int{0, 2} {
		if days > 0 { // now the other host's are too old
			old := time.Now().Add(-time.Duration(days) * 24 * time.Hour)
			for _, name := range tree(t, dir) {
				path := filepath.Join(dir, name)
				if b, _ := os.ReadFile(path); strings.Contains(name, "elsewhere") || strings.Contains(string(b), "elsewhere") {
					if err := os.Chtimes(path, old, old); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		for _, dry := range []bool{true, false} {
			result, err := c.Clean(t.Context(), &cache.CleanOptions{DryRun: dry})
			if err != nil || result.Leftovers != 2 {
				t.Errorf("%d days, dry %v: %d removed, %v", days, dry, result.Leftovers, err)
			}
		}
	}
	if names := tree(t, dir); len(names) != keep {
		t.Errorf("left: %q", names)
	}
	e, err := alive.Commit(t.Context(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Close()
}
