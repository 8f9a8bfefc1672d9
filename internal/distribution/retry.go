package distribution

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

const (
	firstBackoff = 250 * time.Millisecond
	maxBackoff   = 8 * time.Second
	maxAttempts  = 8
)

// retry repeats requests that may succeed the next time, as long as the waits fit into budget.
type retry struct {
	next   http.RoundTripper
	budget time.Duration
	logger *slog.Logger
}

func (r *retry) RoundTrip(req *http.Request) (*http.Response, error) {
	left := r.budget
	for attempt := 1; ; attempt++ {
		started := time.Now()
		res, err := r.next.RoundTrip(req)
		if err != nil {
			// Time-outs use up the budget like waits do.
			left -= time.Since(started)
		}
		if attempt == maxAttempts || !retryable(req, res, err) {
			return res, err
		}
		wait := backoff(attempt)
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
		r.logger.DebugContext(req.Context(), "registry request repeated",
			"host", req.URL.Host, "method", req.Method, "status", status, "error", err, "wait", wait)
		if err := sleep(req.Context(), wait); err != nil {
			return nil, err
		}
		req = again
	}
}

// retryable reports whether an attempt failed in a way that tends to pass. Refused connections and unknown hosts do not: people
// want to hear of those at once.
func retryable(req *http.Request, res *http.Response, err error) bool {
	if req.Context().Err() != nil || (req.Body != nil && req.Body != http.NoBody && req.GetBody == nil) {
		return false
	}
	if err == nil {
		switch res.StatusCode {
		case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return true
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns.IsTemporary
	}
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// rewind returns req ready to be sent again.
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

// backoff doubles with every attempt and varies by half, so that the ranks of a job that failed together do not come back
// together.
func backoff(attempt int) time.Duration {
	d := min(firstBackoff<<(attempt-1), maxBackoff)
	return d/2 + rand.N(d/2)
}

// retryAfter reads the Retry-After header in either of its forms. Zero means that there is none.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if v == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
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
