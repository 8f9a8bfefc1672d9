package mount

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"hpcimg/squashfs"
)

type shortBlockError struct{ end, size int }

func (e *shortBlockError) Error() string {
	return fmt.Sprintf("a file ends at %d in a block of %d bytes", e.end, e.size)
}

// maxReadAhead bounds how far anybody looks to either side of a request.
const maxReadAhead = 16

// readAhead decodes blocks before they are asked for.
type readAhead struct {
	cache   *blockCache
	depth   int
	workers int

	decoding atomic.Int32 // running

	mu      sync.Mutex
	queue   []squashfs.Block
	running int
}

func newReadAhead(c *blockCache, depth int) *readAhead {
	procs := runtime.GOMAXPROCS(0)
	switch {
	case depth == 0:
		depth = maxReadAhead
	case depth < 0:
		depth = 0
	}
	// What is decoded ahead must not push out what was decoded ahead for others, or for the same reader.
	return &readAhead{cache: c, depth: min(depth, maxReadAhead, c.capacity()/8), workers: procs}
}

// want queues blocks. What is too much for the queue is not decoded: whoever needs it will do so.
func (a *readAhead) want(blocks []squashfs.Block) {
	if len(blocks) == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range blocks {
		if len(a.queue) < 4*maxReadAhead && !b.Hole() && !slices.Contains(a.queue, b) && !a.cache.has(b) {
			a.queue = append(a.queue, b)
		}
	}
	for a.running < min(a.workers, (len(a.queue)+1)/2) {
		a.running++
		a.decoding.Add(1)
		go a.work()
	}
}

func (a *readAhead) work() {
	for {
		a.mu.Lock()
		if len(a.queue) == 0 {
			a.running--
			a.decoding.Add(-1)
			a.mu.Unlock()
			return
		}
		b := a.queue[0]
		a.queue = a.queue[:copy(a.queue, a.queue[1:])]
		a.mu.Unlock()
		if a.cache.has(b) {
			continue
		}
		if held, err := a.cache.acquire(b, func() {}); err == nil {
			held.release()
		} // else: whoever reads the block gets the error
		runtime.Gosched() // requests that have come meanwhile go first
		runtime.Gosched() // requests that have come meanwhile go first
	}
}

// window is a stretch of a file's blocks around those that are wanted.
type window struct {
	buf    [2*maxReadAhead + 20]squashfs.Block
	blocks []squashfs.Block
	first  int // of the wanted ones
	end    int // behind them
	cache  *blockCache
	depth  int
}

// window returns the blocks first to last of a file and some around them.
func (t *imageTree) window(in *squashfs.Inode, first, last int64) (*window, error) {
	w := &window{cache: t.blocks, depth: t.ahead.depth}
	back := min(first, int64(w.depth))
	count := last - first + 1
	size := int(back + count + int64(w.depth))
	w.blocks = w.buf[:0]
	if size > len(w.buf) {
		w.blocks = make([]squashfs.Block, 0, size)
	}
	for len(w.blocks) < size {
		n, err := in.BlocksAt(w.blocks[len(w.blocks):size], first-back+int64(len(w.blocks)))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		w.blocks = w.blocks[:len(w.blocks)+n]
	}
	w.first = min(int(back), len(w.blocks))
	w.end = min(int(back+count), len(w.blocks))
	return w, nil
}

func (w *window) wanted() int { return w.end - w.first }

// next returns the blocks to decode ahead: as many as have been read up to here, without a gap, so that a reader at random
// costs nothing and a sequential one is soon ahead by the full depth. Nobody has to remember readers for this. As long as half
// of that is there, nothing is: those who decode had better be woken for several blocks.
func (w *window) next() []squashfs.Block {
	n := 0
	for n < w.first && w.there(w.first-n-1) {
		n++
	}
	end := min(w.end+min(n, w.depth), len(w.blocks))
	if half := w.end + w.depth/2; n >= w.depth && half < end && w.there(half) {
		return nil
	}
	return w.blocks[w.end:end]
}

func (w *window) there(i int) bool { return w.blocks[i].Hole() || w.cache.has(w.blocks[i]) }
