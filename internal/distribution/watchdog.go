package distribution

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	// rateWindows is for how many idle time-outs a body may be slow before it counts.
	rateWindows = 4
	// digestRate is how fast a registry is supposed to store what was uploaded, before it answers.
	digestRate = 16 << 20 // bytes a second
)

// watchdog cancels a request whose peer stays silent, or next to silent, for too long. Only time in which we wait for the peer
// counts.
type watchdog struct {
	next    http.RoundTripper
	idle    time.Duration
	minRate int64
}

func (w *watchdog) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	t := &idleTimer{watchdog: w, cancel: cancel}
	t.timer = time.AfterFunc(w.idle, t.fire)
	req = req.Clone(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &sentBody{body: req.Body, size: req.ContentLength, timer: t}
	}
	res, err := w.next.RoundTrip(req)
	t.answered()
	if err != nil {
		cancel()
		return nil, t.explain(err)
	}
	res.Body = &receivedBody{body: res.Body, timer: t}
	return res, nil
}

// idleTimer runs while we wait for the peer and stands still while we do something else.
type idleTimer struct {
	*watchdog
	timer  *time.Timer
	cancel context.CancelFunc

	mu    sync.Mutex
	quiet bool // the answer is there: how the request's body goes on is of no interest
	fired bool
}

func (t *idleTimer) fire() {
	t.mu.Lock()
	t.fired = true
	t.mu.Unlock()
	t.cancel()
}

// answered ends the time of sending.
func (t *idleTimer) answered() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.quiet = true
	t.timer.Stop()
}

// sending starts or stops the timer between reads of the request's body, which go on in another goroutine.
func (t *idleTimer) sending(wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timer.Stop()
	if !t.quiet && wait > 0 {
		t.timer.Reset(wait)
	}
}

// explain replaces the "context canceled" that our own cancelling caused.
func (t *idleTimer) explain(err error) error {
	t.mu.Lock()
	fired := t.fired
	t.mu.Unlock()
	if err == nil || err == io.EOF || !fired {
		return err
	}
	return fmt.Errorf("%w: nothing happened for %s", ErrStalled, t.idle)
}

// sentBody is a request body: the time its source needs is not the peer's.
type sentBody struct {
	body    io.ReadCloser
	size, n int64
	timer   *idleTimer
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.timer.sending(0)
	n, err := b.body.Read(p)
	b.n += int64(n)
	wait := b.timer.idle
	if err != nil || b.n == b.size {
		// A registry may want to hash and store all that before it answers.
		wait += time.Duration(b.n/digestRate) * time.Second
	}
	b.timer.sending(wait)
	return n, err
}

func (b *sentBody) Close() error { return b.body.Close() }

// receivedBody is a response body: the timer runs only inside Read.
type receivedBody struct {
	body   io.ReadCloser
	timer  *idleTimer
	waited time.Duration // since the rate was last looked at
	got    int64
}

func (b *receivedBody) Read(p []byte) (int, error) {
	started := time.Now()
	b.timer.timer.Reset(b.timer.idle)
	n, err := b.body.Read(p)
	b.timer.timer.Stop()
	if err != nil {
		return n, b.timer.explain(err)
	}
	b.waited += time.Since(started)
	b.got += int64(n)
	if b.waited < rateWindows*b.timer.idle {
		return n, nil
	}
	if b.timer.minRate > 0 && float64(b.got) < float64(b.timer.minRate)*b.waited.Seconds() {
		b.timer.cancel()
		return n, fmt.Errorf("%w: %d bytes in %s, want %d a second", ErrStalled, b.got, b.waited.Round(time.Millisecond), b.timer.minRate)
	}
	b.waited, b.got = 0, 0
	return n, nil
}

func (b *receivedBody) Close() error {
	b.timer.timer.Stop()
	err := b.body.Close()
	b.timer.cancel()
	return err
}
