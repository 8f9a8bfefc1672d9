package distribution

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"
)

// throttle keeps the bodies of all requests of a client, those sent and those received, below a rate together. It stands outside the
// watchdog, which does not count what we wait for ourselves.
type throttle struct {
	next http.RoundTripper
	pace *pace
}

func (t *throttle) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil && req.Body != http.NoBody {
		body := &pacedBody{ReadCloser: req.Body, ctx: req.Context(), pace: t.pace}
		req = req.Clone(req.Context())
		req.Body = body
	}
	res, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	res.Body = &pacedBody{ReadCloser: res.Body, ctx: req.Context(), pace: t.pace}
	return res, nil
}

// pacedBody is read in small pieces, each of which waits for its turn.
type pacedBody struct {
	io.ReadCloser
	ctx  context.Context //nolint:containedctx // of the request
	pace *pace
}

func (b *pacedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.pace.piece())])
	if waitErr := b.pace.wait(b.ctx, n); waitErr != nil && err == nil {
		err = waitErr
	}
	return n, err
}

// pace is a number of bytes a second.
type pace struct {
	rate int64

	mu   sync.Mutex
	free time.Time // when all that was let through so far is paid for
}

// piece is how much is let through at once: a twentieth of a second.
func (p *pace) piece() int { return int(min(max(p.rate/20, 512), 1<<20)) }

// wait waits until n bytes more keep to the rate.
func (p *pace) wait(ctx context.Context, n int) error {
	if n <= 0 {
		return nil
	}
	p.mu.Lock()
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	until := p.free
	p.mu.Unlock()
	return sleep(ctx, time.Until(until))
}
