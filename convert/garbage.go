package convert

import (
	"runtime"
	"runtime/metrics"
	"time"
)

// The collector of garbage lets a heap double before it looks again. What is known of a million entries is over 100 MB and has no pointers, so
// that a look takes a millisecond: it is told to look as soon as there may be garbageMost. Where it would have to follow pointers through more than
// garbageScan, which is what else the process has, it is left alone.
const (
	garbageMost  = 24 << 20
	garbageScan  = 64 << 20
	garbageCheck = 5 * time.Millisecond
)

// collectGarbage keeps the heap small until the function that it returns is called.
func collectGarbage() (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(garbageCheck)
		defer tick.Stop()
		heap := []metrics.Sample{
			{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/heap:bytes"},
		}
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			metrics.Read(heap)
			size, live, scan := heap[0].Value.Uint64(), heap[1].Value.Uint64(), heap[2].Value.Uint64()
			if live > garbageMost && size > live+garbageMost && scan < garbageScan {
				runtime.GC()
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}
