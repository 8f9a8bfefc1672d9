package distribution

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	firstBackoff = 250 * time.Millisecond
	maxBackoff   = 8 * time.Second
)

// retry repeats requests that may succeed the next time, as long as the waits fit into budget.
type retry struct {
	next   http.RoundTripper
	config *Config
}

// withoutRetries marks a context whose requests are repeated by somebody above, who knows more.
func withoutRetries(ctx context.Context) context.Context {
	return context.WithValue(ctx, retriesKey{}, true)
}

type retriesKey struct{}

func (r *retry) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Context().Value(retriesKey{}) != nil {
		return r.next.RoundTrip(req)
	}
	left := r.config.RetryBudget
	for attempt := 1; ; attempt++ {
		started := time.Now()
		res, err := r.next.RoundTrip(req)
		if err != nil {
			// Time-outs use up the budget like waits do.
			left -= time.Since(started)
		}
		if attempt >= r.config.attempts(err) || req.Context().Err() != nil || !repeatable(req) ||
			(err == nil && !transientStatus(res.StatusCode)) || (err != nil && !transient(err)) {
			return res, err
		}
		wait := r.config.backoff(attempt)
		if res != nil {
			wait = max(wait, retryAfter(res.Header, time.Now()))
		}
		if wait > left {
			return res, err
		}
		left -= wait
		again, bodyErr := rewind(req)
		if bodyErr != nil {
			return res, err
		}
		status := 0
		if res != nil {
			status = res.StatusCode
			discard(res.Body)
		}
		r.config.Logger.DebugContext(req.Context(), "registry request repeated",
			"host", req.URL.Host, "method", req.Method, "status", status, "error", err, "wait", wait)
		if sleepErr := sleep(req.Context(), wait); sleepErr != nil {
			closeOriginal(again)
			return nil, sleepErr
		}
		if errors.Is(err, ErrStalled) {
			r.config.dropIdle()
		}
		req = again
	}
}

// repeatable reports whether a request can be sent again.
func repeatable(req *http.Request) bool {
	return req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
}

// transientStatus reports whether an answer may be another one the next time.
func transientStatus(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// transient reports whether a request failed in a way that tends to pass. Refused connections and unknown hosts do not: people
// want to hear of those at once.
func transient(err error) bool {
	if hopeless(err) {
		return false
	}
	if errors.Is(err, ErrStalled) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNABORTED) ||
		errors.Is(err, net.ErrClosed) {
		return true
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns.IsTemporary
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return true
	}
	// These errors of net/http have no exported types: GOAWAY, RST_STREAM, an answer that ends in its header.
	text := err.Error()
	return strings.Contains(text, "http2: ") || strings.Contains(text, "stream error: ") ||
		strings.Contains(text, "server closed idle connection") || garbled(err)
}

// garbled reports whether an answer was no HTTP. It may have been cut in its header, but that is rarer than a wrong port.
func garbled(err error) bool {
	return err != nil && strings.Contains(err.Error(), "HTTP/1.x transport connection broken")
}

// garbledAttempts is enough to tell the one from the other.
const garbledAttempts = 3

// attempts is how often a request is sent that failed with err.
func (c *Config) attempts(err error) int {
	if garbled(err) {
		return min(c.Attempts, garbledAttempts)
	}
	return c.Attempts
}

// hopeless reports whether err will be the same every time.
func hopeless(err error) bool {
	if errors.Is(err, errRefused) {
		return true
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	_, ok := errors.AsType[tls.RecordHeaderError](err)
	return ok
}

// rewind returns req ready to be sent, with a body of its own if that is possible.
func rewind(req *http.Request) (*http.Request, error) {
	again := req.Clone(req.Context())
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		again.Body = body
	}
	return again, nil
}

// patience is what is left of it while one thing is being read with several requests: attempts and waits since there was
// progress.
type patience struct {
	config   *Config
	failures int
	left     time.Duration
	mark     int64
}

// progressStep is how much has to arrive for a new start of the count.
const progressStep = 1 << 20

func newPatience(c *Config) patience { return patience{config: c, left: c.RetryBudget} }

// progress tells how many bytes there are now.
func (p *patience) progress(n int64) {
	if n-p.mark >= progressStep {
		p.mark, p.failures, p.left = n, 0, p.config.RetryBudget
	}
}

// wait lets time pass after a failure, or returns err if there is no patience left. Spent is how long we waited for nothing already.
// After the first failure there is always another attempt: what stalled once may be a connection that died.
func (p *patience) wait(ctx context.Context, err *Error, spent time.Duration) error {
	if ctx.Err() != nil || p.config.RetryBudget < 0 {
		return err
	}
	p.failures++
	p.left = max(p.left-spent, 0)
	pause := p.config.backoff(p.failures)
	switch {
	case p.failures >= p.config.attempts(err),
		max(pause, err.RetryAfter) > p.left && (p.failures > 1 || err.RetryAfter > 0):
		if p.failures > 1 {
			err.Err = fmt.Errorf("gave up after %d attempts: %w", p.failures, err.Err)
		}
		return err
	}
	pause = min(max(pause, err.RetryAfter), max(p.left, p.config.backoff(1)))
	p.left = max(p.left-pause, 0)
	p.config.Logger.DebugContext(ctx, "registry request repeated", "host", err.Host, "op", err.Op, "status", err.Status,
		"error", err.Err, "wait", pause)
	if sleepErr := sleep(ctx, pause); sleepErr != nil {
		err.Err = sleepErr
		return err
	}
	if errors.Is(err, ErrStalled) {
		p.config.dropIdle()
	}
	return nil
}

// backoff doubles with every attempt and varies by half, so that the ranks of a job that failed together do not come back
// together. A small budget is for small waits.
func (c *Config) backoff(attempt int) time.Duration {
	first := max(min(firstBackoff, c.RetryBudget/32), time.Millisecond)
	d := min(first<<min(attempt-1, 10), maxBackoff)
	return d/2 + rand.N(d/2)
}

// retryAfter reads the Retry-After header in either of its forms. Zero means that there is none.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if v == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(v, 10, 31); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(seconds) * time.Second // out of range: the largest there is
	}
	if at, err := http.ParseTime(v); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// discard reads a little of a body that nobody wants, so that its connection can be used again, and closes it.
func discard(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 64<<10)
	_ = body.Close()
}
