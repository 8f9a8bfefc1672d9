package distribution

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// newTransport is the transport of clients that bring none. It reads no environment: proxies come from the caller.
func newTransport(proxy func(*http.Request) (*url.URL, error)) *http.Transport {
	return &http.Transport{
		Proxy:                 proxy,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       15 * time.Second,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true,
		// A header block is where a hostile peer could send for ever.
		MaxResponseHeaderBytes: 256 << 10,
	}
}

// guard refuses requests that a registry, by a redirect or a token realm, should not be able to cause.
type guard struct {
	next      http.RoundTripper
	plainHTTP bool
	loopback  bool // the registry itself is on this machine
	userAgent string
}

func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	local := isLoopback(req.URL.Hostname())
	switch {
	case local && !g.loopback:
		return nil, fmt.Errorf("refused a request to %s on behalf of another host", req.URL.Host)
	case req.URL.Scheme == "http" && !g.plainHTTP && (!local || !g.loopback):
		return nil, fmt.Errorf("refused plain HTTP to %s: it has to be allowed by an option", req.URL.Host)
	}
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", g.userAgent)
	if req.Header.Get("Accept-Encoding") == "" {
		// A transport of the caller may be decompressing on its own otherwise, and digests are of the bytes as stored.
		req.Header.Set("Accept-Encoding", "identity")
	}
	return g.next.RoundTrip(req)
}

// isLoopback reports whether host, without a port, means this machine by its form; nothing is resolved.
func isLoopback(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// watchdog cancels a request whose peer stays silent for too long.
type watchdog struct {
	next http.RoundTripper
	idle time.Duration
}

func (w *watchdog) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	t := &idleTimer{idle: w.idle, cancel: cancel}
	t.timer = time.AfterFunc(w.idle, t.fire)
	req = req.Clone(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &sentBody{body: req.Body, timer: t}
	}
	res, err := w.next.RoundTrip(req)
	t.stop()
	if err != nil {
		cancel()
		return nil, t.explain(err)
	}
	res.Body = &receivedBody{body: res.Body, timer: t}
	return res, nil
}

// idleTimer runs while we wait for the peer and stands still while we do something else.
type idleTimer struct {
	idle   time.Duration
	timer  *time.Timer
	cancel context.CancelFunc
	fired  atomic.Bool
}

func (t *idleTimer) fire() {
	t.fired.Store(true)
	t.cancel()
}

func (t *idleTimer) start() { t.timer.Reset(t.idle) }
func (t *idleTimer) stop()  { t.timer.Stop() }

// explain replaces the "context canceled" that our own cancelling caused.
func (t *idleTimer) explain(err error) error {
	if err != nil && err != io.EOF && t.fired.Load() {
		return fmt.Errorf("%w: nothing happened for %s", ErrStalled, t.idle)
	}
	return err
}

// sentBody is a request body: the time its source needs is not the peer's.
type sentBody struct {
	body  io.ReadCloser
	timer *idleTimer
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.timer.stop()
	defer b.timer.start()
	return b.body.Read(p)
}

func (b *sentBody) Close() error { return b.body.Close() }

// receivedBody is a response body: the timer runs only inside Read.
type receivedBody struct {
	body  io.ReadCloser
	timer *idleTimer
}

func (b *receivedBody) Read(p []byte) (int, error) {
	b.timer.start()
	n, err := b.body.Read(p)
	b.timer.stop()
	return n, b.timer.explain(err)
}

func (b *receivedBody) Close() error {
	b.timer.stop()
	err := b.body.Close()
	b.timer.cancel()
	return err
}

// checkRedirect stops loops and downgrades; guard sees to the rest.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("refused a redirect from https to %s", req.URL.Scheme)
	}
	return nil
}
