package mount

import (
	"slices"
	"time"
)

const (
	// watchEvery is how long a reader may keep the turn during one answer, and at most twice that.
	watchEvery = 20 * time.Millisecond
	// watchIdle is after how many looks without any request nobody watches any more, until there is one again.
	watchIdle = 25
)

// watched sees to it that somebody watches.
func (s *Server) watched() {
	if !s.watch.Load() && s.watch.CompareAndSwap(false, true) {
		go s.keepWatch()
	}
}

// keepWatch passes the turn to read on for those who keep it during an answer that takes long: other requests may need nothing
// of what this one waits for. It ends when there have been no requests for a while.
func (s *Server) keepWatch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var before []uint64
	for idle := 0; ; {
		select {
		case <-s.done:
			return
		case <-tick.C:
		}
		s.mu.Lock()
		readers := slices.Clone(s.readers)
		s.mu.Unlock()
		if idle++; idle > watchIdle {
			// Who begins after this starts another watch, and who has begun before is seen here.
			s.watch.Store(false)
			if !slices.ContainsFunc(readers, (*reader).answering) || !s.watch.CompareAndSwap(false, true) {
				return
			}
			idle = 0
		}
		for i, r := range readers {
			now := r.begun.Load()
			if i == len(before) {
				before = append(before, 0)
			}
			if now != before[i] {
				idle = 0
			} else if r.answering() {
				idle = 0
				r.pass()
			}
			before[i] = now
		}
	}
}

// answering reports whether the reader is at a request.
func (r *reader) answering() bool { return r.begun.Load()%2 == 1 }
