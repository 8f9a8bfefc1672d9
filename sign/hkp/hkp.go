package hkp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"hpcimg/sign"
)

const (
	maxAnswer      = 4 << 20
	maxRedirects   = 3
	defaultTimeout = 30 * time.Second
	hkpPort        = "11371"
)

// Options say how a server is spoken to.
type Options struct {
	// Transport makes the requests. Default: one of its own, which uses no proxy.
	Transport http.RoundTripper
	// Timeout is for a request as a whole. Default: 30 seconds.
	Timeout time.Duration
	// Token is sent as a bearer token.
	Token     string
	UserAgent string
}

// Client speaks to one key server. It is safe for concurrent use.
type Client struct {
	base  *url.URL
	http  *http.Client
	token string
	agent string
}

// ServerError is an answer other than success. It is fs.ErrNotExist if the server has no such key.
type ServerError struct {
	Server string
	Status int
	Text   string // the beginning of what the server said, without control characters
}

func (e *ServerError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("hkp: %s: %d %s: %s", e.Server, e.Status, http.StatusText(e.Status), e.Text))
}

// Is reports whether target is fs.ErrNotExist and the server has said so.
func (e *ServerError) Is(target error) bool {
	return target == fs.ErrNotExist && e.Status == http.StatusNotFound
}

// New returns a client of a server: https, http, hkps or hkp, which is http on port 11371.
func New(server string, opts *Options) (*Client, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	u, err := url.Parse(server)
	if err != nil {
		return nil, fmt.Errorf("hkp: %w", err)
	}
	switch u.Scheme {
	case "hkps":
		u.Scheme = "https"
	case "hkp":
		u.Scheme = "http"
		if u.Port() == "" {
			u.Host = net.JoinHostPort(u.Hostname(), hkpPort)
		}
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("hkp: %q is not a key server: want hkps://HOST: %w", server, fs.ErrInvalid)
	}
	if o.Token != "" && u.Scheme != "https" && !local(u.Hostname()) {
		return nil, fmt.Errorf("hkp: a token is not sent to %s without TLS: %w", u.Host, fs.ErrInvalid)
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Transport == nil {
		o.Transport = &http.Transport{TLSHandshakeTimeout: o.Timeout, ResponseHeaderTimeout: o.Timeout, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10}
	}
	c := &Client{base: u, token: o.Token, agent: o.UserAgent}
	c.http = &http.Client{Transport: o.Transport, Timeout: o.Timeout, CheckRedirect: c.redirect}
	return c, nil
}

func local(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c *Client) redirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return errors.New("too many redirects")
	case req.URL.Scheme != "https" && req.URL.Scheme != c.base.Scheme:
		return fmt.Errorf("redirect to %s", req.URL.Scheme)
	case req.URL.Host != c.base.Host:
		req.Header.Del("Authorization")
	}
	return nil
}

// Get gets the key with a fingerprint. The error is fs.ErrNotExist if the server has none.
func (c *Client) Get(ctx context.Context, fp sign.Fingerprint) (*sign.Key, error) {
	fp, err := sign.ParseFingerprint(string(fp))
	if err != nil {
		return nil, err
	}
	body, err := c.lookup(ctx, url.Values{"op": {"get"}, "options": {"mr"}, "exact": {"on"}, "search": {"0x" + string(fp)}})
	if err != nil {
		return nil, err
	}
	ring, err := sign.ReadKeyring(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("hkp: %s: %w", c.base.Host, err)
	}
	key, err := ring.Find(fp)
	if err != nil {
		return nil, fmt.Errorf("hkp: %s sent another key: %w", c.base.Host, err)
	}
	return key.Public(), nil
}

// Push sends the public half of a key.
func (c *Client) Push(ctx context.Context, key *sign.Key) error {
	var text strings.Builder
	if err := key.ExportPublic(&text, true); err != nil {
		return err
	}
	form := url.Values{"keytext": {text.String()}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.JoinPath("pks", "add").String(), strings.NewReader(form))
	if err != nil {
		return fmt.Errorf("hkp: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	_, err = c.do(req)
	return err
}

func (c *Client) lookup(ctx context.Context, query url.Values) ([]byte, error) {
	u := c.base.JoinPath("pks", "lookup")
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("hkp: %w", err)
	}
	return c.do(req)
}

func (c *Client) do(req *http.Request) ([]byte, error) {
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if c.agent != "" {
		req.Header.Set("User-Agent", c.agent)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("hkp: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("hkp: %s: %w", c.base.Host, err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("hkp: %s: %w", c.base.Host, &sign.LimitError{What: "answer of a key server", Limit: maxAnswer})
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return nil, &ServerError{Server: c.base.Host, Status: res.StatusCode, Text: excerpt(body)}
	}
	return body, nil
}

// excerpt is fit for a terminal.
func excerpt(body []byte) string {
	const most = 200
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f {
			return ' '
		}
		return r
	}, string(body[:min(len(body), most)]))
	return strings.Join(strings.Fields(text), " ")
}
