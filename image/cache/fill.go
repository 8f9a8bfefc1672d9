package cache

import (
	"context"
	"errors"
	"io"
	"sync"

	"hpcimg/image/cache/internal/disk"
)

// filler brings what is missing of a part from the source. It goes ahead of those who read, who may be slow: a download is
// held up by nothing but the network and the disk.
type filler struct {
	part   *part
	fetch  fetch
	ctx    context.Context //nolint:containedctx // of the one goroutine
	cancel context.CancelFunc
	done   chan struct{}

	mu   sync.Mutex
	news chan struct{} // closed when something has happened
	err  error         // of the source
	disk error         // of the cache's own files
}

// startFill opens the source at the first chunk that is missing, from chunk from on, and brings the rest in the background. That
// nothing is missing is no error.
func startFill(ctx context.Context, p *part, fetch fetch, from int64) (*filler, error) {
	ctx, cancel := context.WithCancel(ctx)
	f := &filler{part: p, fetch: fetch, ctx: ctx, cancel: cancel, done: make(chan struct{}), news: make(chan struct{})}
	at := p.missing(from)
	if at < 0 {
		close(f.done)
		return f, nil
	}
	body, err := fetch(ctx, at*disk.ChunkSize)
	if err != nil {
		cancel()
		return nil, err
	}
	go f.run(body, at)
	return f, nil
}

func (f *filler) run(body io.ReadCloser, at int64) {
	defer close(f.done)
	buf := make([]byte, min(f.part.size, disk.ChunkSize))
	for {
		next, err, diskErr := f.stretch(body, at, buf)
		_ = body.Close()
		if at = f.part.missing(next); at < 0 {
			return
		}
		if err == nil && diskErr == nil {
			body, err = f.fetch(f.ctx, at*disk.ChunkSize)
		}
		if err != nil || diskErr != nil {
			f.fail(err, diskErr)
			return
		}
	}
}

// stretch reads chunks up to one that is there already.
func (f *filler) stretch(body io.Reader, at int64, buf []byte) (next int64, sourceErr, diskErr error) {
	for ; at < disk.Chunks(f.part.size) && !f.part.has(at); at++ {
		_, n := f.part.span(at)
		if _, err := io.ReadFull(body, buf[:n]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return at, err, nil
		}
		if err := f.part.put(at, buf[:n]); err != nil {
			return at, nil, err
		}
		f.tell()
	}
	return at, nil, nil
}

func (f *filler) fail(err, diskErr error) {
	f.mu.Lock()
	f.err, f.disk = err, diskErr
	f.mu.Unlock()
}

func (f *filler) tell() {
	f.mu.Lock()
	close(f.news)
	f.news = make(chan struct{})
	f.mu.Unlock()
}

// event returns what is closed when there is something new.
func (f *filler) event() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.news
}

// ended reports whether nothing more will come, and why.
func (f *filler) ended() (ended bool, err, diskErr error) {
	select {
	case <-f.done:
	default:
		return false, nil, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return true, f.err, f.disk
}

func (f *filler) stop() {
	f.cancel()
	<-f.done
}
