package cache_test

import (
	"strings"
	"testing"
	"time"

	"hpcimg/image/cache"
)

// FuzzMark wants a side file that is accepted to be what would be written, and to be accepted for its own key only.
func FuzzMark(f *testing.F) {
	good := cache.EncodeMark("abcdefgh", 12, 34, time.Unix(56, 0), "")
	bound := cache.EncodeMark("abcdefgh", 1<<64-1, -1, time.Time{}, "3f0e-boot")
	for _, text := range []string{good, bound, "", "\n", "hpcimg-used 1\n", good + good, strings.ToUpper(good), good[:len(good)-1]} {
		f.Add(text, "abcdefgh")
	}
	if _, ok := cache.DecodeMark(good, "abcdefgh"); !ok {
		f.Fatal("a good mark is refused")
	}
	f.Fuzz(func(t *testing.T, text, key string) {
		again, ok := cache.DecodeMark(text, key)
		if !ok {
			return
		}
		if again != text {
			t.Errorf("accepted %q, writes %q", text, again)
		}
		if _, ok := cache.DecodeMark(text, key+"x"); ok {
			t.Errorf("%q is good for two keys", text)
		}
	})
}
