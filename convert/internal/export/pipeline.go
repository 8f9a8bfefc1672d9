package export

import (
	"context"
	"sync"
)

// pipeline has work done on items side by side, and then the rest in the order in which they were submitted. There are only so
// many items, and all channels have room for all of them: the one wait is that for an item that is free.
//
// Items come from one goroutine. With one worker that goroutine does everything.
type pipeline[T any] struct {
	ctx     context.Context //nolint:containedctx // of the one call that it lives for
	consume func(*T) error
	single  func(*T) error // of the worker, if there is one and no goroutines
	free    chan *slot[T]
	work    chan *slot[T]
	emit    chan *slot[T]
	done    sync.WaitGroup

	mu  sync.Mutex
	err error
}

// slot is an item, and what has become of the work on it.
type slot[T any] struct {
	item  T
	err   error
	ready chan struct{}
}

// newPipeline starts a pipeline with a worker for each function of workers. Call close.
func newPipeline[T any](ctx context.Context, workers []func(*T) error, consume func(*T) error) *pipeline[T] {
	p := &pipeline[T]{ctx: ctx, consume: consume}
	slots := 1
	if len(workers) > 1 {
		slots = len(workers) + len(workers)/2 + 2
	}
	p.free = make(chan *slot[T], slots)
	for range slots {
		p.free <- &slot[T]{ready: make(chan struct{}, 1)}
	}
	if len(workers) == 1 {
		p.single = workers[0]
		return p
	}
	p.work, p.emit = make(chan *slot[T], slots), make(chan *slot[T], slots)
	for _, do := range workers {
		p.done.Go(func() {
			for s := range p.work {
				if p.failed() == nil {
					s.err = do(&s.item)
				}
				s.ready <- struct{}{}
			}
		})
	}
	p.done.Go(func() {
		for s := range p.emit {
			<-s.ready
			p.finish(s)
		}
	})
	return p
}

// take returns an item to be filled, with what it was left with, or why there is no point in it.
func (p *pipeline[T]) take() (*slot[T], error) {
	s := <-p.free
	if err := p.failed(); err != nil {
		p.free <- s
		return nil, err
	}
	return s, nil
}

// submit passes an item on.
func (p *pipeline[T]) submit(s *slot[T]) error {
	if p.single == nil {
		p.work <- s
		p.emit <- s
		return nil
	}
	s.err = p.single(&s.item)
	p.finish(s)
	return p.failed()
}

// finish is the end of an item's way.
func (p *pipeline[T]) finish(s *slot[T]) {
	if p.failed() == nil {
		err := s.err
		if err == nil {
			err = p.consume(&s.item)
		}
		if err != nil {
			p.fail(err)
		}
	}
	s.err = nil
	p.free <- s
}

// failed returns why there is no point in going on.
func (p *pipeline[T]) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	return p.ctx.Err()
}

func (p *pipeline[T]) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
}

// close waits for what has been submitted, and returns the first error of what was done with it.
func (p *pipeline[T]) close() error {
	if p.single == nil {
		close(p.work)
		close(p.emit)
		p.done.Wait()
	}
	return p.failed()
}
