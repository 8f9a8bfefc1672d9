package distribution

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// newTransport is the transport of clients that bring none. It reads no environment: proxies come from the caller. How long an
// answer may take is the watchdog's business, who knows how much was sent.
func newTransport(c Config) *http.Transport {
	ping := min(c.IdleTimeout/2, 15*time.Second)
	return &http.Transport{
		Proxy:               c.Proxy,
		TLSClientConfig:     c.TLS.Clone(), // nil stays nil
		DialContext:         (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     15 * time.Second,
		TLSHandshakeTimeout: 15 * time.Second,
		// A connection of HTTP/2 that died without a word would be used again for every attempt.
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: ping, PingTimeout: ping},
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
	registry  string // host of the registry itself, without a port
	userAgent string
}

func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := g.allow(req); err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", g.userAgent)
	// net/http tells the target of a redirect where it came from, with a signature that may be in the URL.
	req.Header.Del("Referer")
	if req.Header.Get("Accept-Encoding") == "" {
		// A transport of the caller may be decompressing on its own otherwise, and digests are of the bytes as stored.
		req.Header.Set("Accept-Encoding", "identity")
	}
	return g.next.RoundTrip(req)
}

func (g *guard) allow(req *http.Request) error {
	host := req.URL.Hostname()
	local, trusted := isLoopback(host), isLoopback(g.registry)
	switch {
	case local && !trusted, !strings.EqualFold(host, g.registry) && isDisguised(host):
		return fmt.Errorf("%w a request to %s on behalf of another host", errRefused, Printable(req.URL.Host, 100))
	case req.URL.Scheme != "http" && req.URL.Scheme != "https":
		return fmt.Errorf("%w a request over %q", errRefused, Printable(req.URL.Scheme, 20))
	case req.URL.Scheme == "http" && !g.plainHTTP && !local:
		return fmt.Errorf("%w plain HTTP to %s: it has to be allowed by an option", errRefused, Printable(req.URL.Host, 100))
	}
	return nil
}

// isLoopback reports whether host, without a port, means this machine by its form; nothing is resolved.
func isLoopback(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && (addr.Unmap().IsLoopback() || addr.Unmap().IsUnspecified())
}

// isDisguised reports whether host is an address that no registry has business with, or one in a spelling that some resolvers take
// for an address: a cloud's metadata service, 2130706433, 0x7f.1.
func isDisguised(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if addr, err := netip.ParseAddr(host); err == nil {
		addr = addr.Unmap()
		return addr.IsLinkLocalUnicast() || addr.IsMulticast()
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	return last != "" && last[0] >= '0' && last[0] <= '9' && strings.Trim(last, "0123456789abcdefx") == ""
}

// checkRedirect stops loops and downgrades; guard sees to the rest.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return fmt.Errorf("%w to follow more than 10 redirects", errRefused)
	}
	if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("%w a redirect from https to %s", errRefused, Printable(req.URL.Scheme, 20))
	}
	return nil
}
