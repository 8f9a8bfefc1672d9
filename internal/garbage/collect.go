package garbage

import (
	"runtime"
	"runtime/metrics"
)

// The runtime lets a heap double before it looks again. What is known of a million files is over 100 MB and has no pointers, so that a look takes a
// millisecond: it is told to look as soon as there may be most. Where it would have to follow pointers through more than
// scan, which is what else the process has, it is left alone.
const (
	most = 24 << 20
	scan = 64 << 20
)

// Collector looks at the heap now and then. The zero value is ready; it is for one goroutine at a time.
type Collector struct {
	samples []metrics.Sample
}

// Look takes a few microseconds, or collects.
func (c *Collector) Look() {
	if c.samples == nil {
		c.samples = []metrics.Sample{
			{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/heap:bytes"},
		}
	}
	metrics.Read(c.samples)
	size, live, pointers := c.samples[0].Value.Uint64(), c.samples[1].Value.Uint64(), c.samples[2].Value.Uint64()
	if live > most && size > live+most && pointers < scan {
		runtime.GC()
	}
}
