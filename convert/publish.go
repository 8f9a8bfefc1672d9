package convert

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"hpcimg/convert/internal/index"
	"hpcimg/image/cache"
)

// publisher puts into the cache what is new, while the conversion goes on. What does not get there is made again another time.
type publisher struct {
	group errgroup.Group
	mu    sync.Mutex
	err   error // the first one
}

func (p *publisher) run(f func() error) {
	p.group.Go(func() error {
		if err := f(); err != nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.err == nil {
				p.err = err
			}
		}
		return nil
	})
}

// wait waits until all is in the cache, and returns the first reason why something is not.
func (p *publisher) wait() error {
	_ = p.group.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// publishIndex puts the index of a layer into the cache.
func (j *job) publishIndex(l *layerState) {
	if j.recall.cache == nil || l.diffID == "" {
		return
	}
	known := l.known // which is given up when it is not needed any more
	j.publisher.run(func() error {
		meta, err := l.encode(&j.shelf, known)
		if err != nil {
			return err
		}
		w, err := j.recall.cache.Create(cache.KindIndex, index.LayerKey(l.diffID))
		if err != nil {
			return err
		}
		defer w.Abort()
		e, err := w.Commit(context.Background(), 0, meta)
		if err != nil {
			return err
		}
		return e.Close()
	})
}

// publishSegments gives the segments that stand in files of the cache their names. Afterwards they cannot be read any more.
func (j *job) publishSegments() {
	for _, l := range j.layers {
		j.publishSegment(l)
	}
}

func (j *job) publishSegment(l *layerState) {
	s := l.segment
	if s.writer == nil {
		return
	}
	w, size, encode := s.writer, s.Pack.Size, s.Encode
	if l.files != nil {
		files := *l.files
		encode = func() ([]byte, error) { return j.shelf.get(files) }
	}
	s.writer = nil
	key := index.SegmentKey(j.packKey(l), l.visible)
	j.publisher.run(func() error {
		defer w.Abort()
		meta, err := encode()
		if err != nil {
			return err
		}
		if err := w.SetKey(key); err != nil {
			return err
		}
		e, err := w.Commit(context.Background(), size, meta)
		if err != nil {
			return err
		}
		return e.Close()
	})
}
