package garbage_test

import (
	"runtime"
	"testing"

	"hpcimg/internal/garbage"
)

// TestLook: what has no pointers is collected before the heap has doubled, and a heap full of pointers is left alone.
func TestLook(t *testing.T) {
	collections := func(live any) uint32 {
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var c garbage.Collector
		for range 60 {
			waste = make([]byte, 1<<20)
			c.Look()
		}
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(live)
		return after.NumForcedGC - before.NumForcedGC
	}
	if n := collections(make([]byte, 200<<20)); n < 1 || n > 3 {
		t.Errorf("%d collections for 60 MiB of garbage beside 200 MiB of bytes", n)
	}
	pointers := make([]*int, 200<<20/8)
	for i := 0; i < len(pointers); i += 1 << 10 {
		pointers[i] = new(int)
	}
	if n := collections(pointers); n != 0 {
		t.Errorf("%d collections beside 200 MiB of pointers", n)
	}
	if n := collections(nil); n != 0 {
		t.Errorf("%d collections of a small heap", n)
	}
}

var waste []byte
