package export

import (
	"context"
	"io"
	"runtime"
	"sync"

	"hpcimg/squashfs"
)

// chunkSize is how much of a file is read at a time: a whole number of blocks of any size.
const chunkSize = 1 << 20

// item is an entry of the tree or, if it has a chunk, a part of its contents.
type item struct {
	path  string
	in    *squashfs.Inode
	link  string // the first name of the file, if this is a further one
	chunk *chunk
}

// chunk is a part of a file that is being read.
type chunk struct {
	in   *squashfs.Inode
	off  int64
	data []byte
	err  error
	done chan struct{}
}

// ahead walks a tree and reads the contents of its files with several workers, some way ahead of whoever takes them, in order.
type ahead struct {
	ctx    context.Context //nolint:containedctx // of the one call that it lives for
	cancel context.CancelFunc
	items  chan item
	work   chan *chunk
	bufs   sync.Pool
	tokens chan struct{} // chunks in memory
	wg     sync.WaitGroup
	err    error // of the walk; set before items is closed
	seen   map[uint32]string
}

func newAhead(ctx context.Context, opts *TarOptions) *ahead {
	workers := runtime.GOMAXPROCS(0)
	if opts != nil && opts.Workers > 0 {
		workers = opts.Workers
	}
	a := &ahead{items: make(chan item, 256), work: make(chan *chunk), seen: make(map[uint32]string)}
	a.ctx, a.cancel = context.WithCancel(ctx)
	a.bufs.New = func() any { return new([chunkSize]byte) }
	a.tokens = make(chan struct{}, 2*workers+2)
	for range workers {
		a.wg.Go(a.read)
	}
	return a
}

// start begins to walk.
func (a *ahead) start(walk func(emit func(item) error) error) {
	a.wg.Go(func() {
		defer close(a.items)
		defer close(a.work)
		a.err = walk(a.emit)
	})
}

// emit passes an entry on, and its contents in chunks.
func (a *ahead) emit(i item) error {
	in := i.in
	if in.LinkCount() > 1 && !in.IsDir() {
		if i.link = a.seen[in.Number()]; i.link == "" {
			a.seen[in.Number()] = i.path
		}
	}
	if err := a.send(i); err != nil || i.link != "" || !in.Mode().IsRegular() {
		return err
	}
	for off := int64(0); off < in.Size(); off += chunkSize {
		c := &chunk{in: in, off: off, done: make(chan struct{})}
		select {
		case a.tokens <- struct{}{}:
		case <-a.ctx.Done():
			return a.ctx.Err()
		}
		c.data = a.bufs.Get().(*[chunkSize]byte)[:min(chunkSize, in.Size()-off)]
		if err := a.send(item{path: i.path, in: in, chunk: c}); err != nil {
			return err
		}
		select {
		case a.work <- c:
		case <-a.ctx.Done():
			return a.ctx.Err()
		}
	}
	return nil
}

func (a *ahead) send(i item) error {
	select {
	case a.items <- i:
		return nil
	case <-a.ctx.Done():
		return a.ctx.Err()
	}
}

func (a *ahead) read() {
	for c := range a.work {
		n, err := c.in.ReadAt(c.data, c.off)
		if n < len(c.data) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			c.err = err
		}
		close(c.done)
	}
}

// next returns the next item, its chunk read, or io.EOF.
func (a *ahead) next() (item, error) {
	var i item
	var ok bool
	select {
	case i, ok = <-a.items:
	case <-a.ctx.Done():
		return i, a.ctx.Err()
	}
	if !ok {
		if a.err != nil {
			return i, a.err
		}
		return i, io.EOF
	}
	if i.chunk == nil {
		return i, nil
	}
	select {
	case <-i.chunk.done:
		return i, i.chunk.err
	case <-a.ctx.Done():
		return i, a.ctx.Err()
	}
}

// free gives the memory of a chunk back.
func (a *ahead) free(c *chunk) {
	a.bufs.Put((*[chunkSize]byte)(c.data[:chunkSize]))
	c.data = nil
	<-a.tokens
}

// stop ends all goroutines and waits for them.
func (a *ahead) stop() {
	a.cancel()
	a.wg.Wait()
}
