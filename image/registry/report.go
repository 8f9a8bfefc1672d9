package registry

import (
	"sync"
	"time"
)

// reporter calls the caller's function, one event at a time and not too often.
type reporter struct {
	mu   sync.Mutex
	call func(Event)
	last map[string]time.Time
}

const reportInterval = 100 * time.Millisecond

func newReporter(call func(Event)) *reporter {
	return &reporter{call: call, last: map[string]time.Time{}}
}

// send reports e whatever was reported before.
func (r *reporter) send(e Event) {
	if r.call == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.call(e)
}

// tick reports e unless the same blob was reported a moment ago.
func (r *reporter) tick(e Event) {
	if r.call == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key := e.Descriptor.Digest.String()
	if now := time.Now(); now.Sub(r.last[key]) >= reportInterval {
		r.last[key] = now
		r.call(e)
	}
}
