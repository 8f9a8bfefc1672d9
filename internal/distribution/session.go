package distribution

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// session is the authenticated way to one repository, made by the first request.
type session struct {
	config *Config
	host   string // as people write it
	api    string // host and port of the API
	scope  string
	base   http.RoundTripper

	turn  chan struct{} // a mutex that a context can give up on; guards what follows
	state *state        // nil until connected; replaced, never changed
}

// state is how to talk to the registry at the moment.
type state struct {
	scheme     string
	challenge  challenge // how the registry wants us to authenticate; the zero value if it did not say
	scopes     []string
	credential Credential
	refresh    string // OAuth2 refresh token, which token servers replace
	header     string // Authorization for the registry itself; empty for none
	http       *http.Client
}

// standbyAttempts is how often a request is sent that another host can answer as well.
const standbyAttempts = 2

func (c *Client) newSession(at Place, api, scope string) *session {
	config := c.config
	config.PlainHTTP = config.PlainHTTP || at.PlainHTTP
	if at.Standby {
		config.Attempts = min(config.Attempts, standbyAttempts)
		config.RetryBudget /= 8
	}
	var rt http.RoundTripper = &watchdog{next: config.Transport, idle: config.IdleTimeout, minRate: config.MinRate}
	if c.pace != nil {
		rt = &throttle{next: rt, pace: c.pace}
	}
	rt = &guard{
		next:      rt,
		plainHTTP: config.PlainHTTP,
		registry:  hostname(api),
		userAgent: config.UserAgent,
	}
	rt = &retry{next: rt, config: &config}
	return &session{config: &config, host: at.Host, api: api, scope: scope, base: rt, turn: make(chan struct{}, 1)}
}

// lock waits for the session's turn. The caller gives it back.
func (s *session) lock(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *session) unlock() { <-s.turn }

// connect finds out how the registry is to be talked to and authenticates. A failure is not kept: the next request tries again,
// perhaps with a living context.
func (s *session) connect(ctx context.Context) (*state, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.unlock()
	if s.state != nil {
		return s.state, nil
	}
	st := &state{}
	var err error
	if st.scheme, st.challenge, err = s.ping(ctx); err != nil {
		return nil, err
	}
	st.scopes = []string{s.scope}
	st.http = &http.Client{Transport: &authorizer{session: s}, CheckRedirect: checkRedirect}
	if st.credential, err = s.credential(ctx); err != nil {
		return nil, err
	}
	if st, err = s.authenticate(ctx, st); err != nil {
		return nil, err
	}
	s.state = st
	return st, nil
}

// credential asks the caller.
func (s *session) credential(ctx context.Context) (Credential, error) {
	if s.config.Credentials == nil {
		return Credential{}, nil
	}
	cred, err := s.config.Credentials(ctx, s.host)
	if err != nil {
		return Credential{}, fmt.Errorf("credentials for %s: %w", s.host, err)
	}
	return cred, nil
}

// ping asks the registry for the start of its API, over HTTPS and then, where that is allowed, over HTTP.
func (s *session) ping(ctx context.Context) (string, challenge, error) {
	plain := s.config.PlainHTTP || isLoopback(hostname(s.api))
	c, err := s.pingOver(ctx, "https", plain)
	if err == nil || !plain || ctx.Err() != nil {
		return "https", c, err
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Status != 0 {
		// It answers, if not well: now with patience.
		c, err = s.pingOver(ctx, "https", false)
		return "https", c, err
	}
	if badCertificate(err) {
		return "", challenge{}, err
	}
	c, plainErr := s.pingOver(ctx, "http", false)
	if plainErr != nil {
		return "", challenge{}, fmt.Errorf("%w (over HTTPS: %w)", trimURL(plainErr), trimURL(err))
	}
	return "http", c, nil
}

// badCertificate reports whether TLS failed for whose certificate it was, theirs or ours: such a server does have HTTPS, and to do
// without would be a downgrade.
func badCertificate(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	e, ok := errors.AsType[*net.OpError](err)
	return ok && e.Op == "remote error" // an alert
}

// firstPing is what the attempt over HTTPS may take if there is another one.
const firstPing = 10 * time.Second

func (s *session) pingOver(ctx context.Context, scheme string, first bool) (challenge, error) {
	if first {
		timed, cancel := context.WithTimeoutCause(withoutRetries(ctx), firstPing, errNoTLS)
		defer cancel()
		ctx = timed
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+s.api+"/v2/", nil)
	if err != nil {
		return challenge{}, err
	}
	// Not followed: a challenge that comes from another host is not the registry's.
	client := &http.Client{Transport: s.base, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		if errors.Is(context.Cause(ctx), errNoTLS) {
			err = errNoTLS
		}
		return challenge{}, err
	}
	defer discard(res.Body)
	switch {
	case res.StatusCode == http.StatusUnauthorized:
		return pickChallenge(res.Header), nil
	case res.StatusCode == http.StatusTooManyRequests || res.StatusCode >= 500:
		return challenge{}, answerError(res)
	}
	// Whatever else it says, the request itself will show.
	return challenge{}, nil
}

var errNoTLS = errors.New("no answer")

// authenticate returns st with the header for the registry. The credential may do without a challenge: some registries show what is
// public to everybody and hide the rest.
func (s *session) authenticate(ctx context.Context, st *state) (*state, error) {
	next := *st
	switch {
	case st.credential.RegistryToken != "":
		next.header = "Bearer " + st.credential.RegistryToken
	case st.challenge.scheme == "bearer":
		t, err := s.fetchToken(ctx, st)
		if err != nil {
			return nil, err
		}
		next.header = "Bearer " + t.value
		next.refresh = t.refresh
	case st.credential.Username != "" || st.credential.Password != "":
		next.header = basic(st.credential)
	default:
		next.header = ""
	}
	return &next, nil
}

// renew returns a state to repeat a request with that was refused with used, or nil if there is no use in repeating it. Of many
// requests that were refused together one does the work.
func (s *session) renew(ctx context.Context, used *state, res *http.Response) (*state, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.unlock()
	if s.state.header != used.header {
		return s.state, nil
	}
	st := *s.state
	c := pickChallenge(res.Header)
	if c.scheme == "bearer" && st.challenge.scheme == "" {
		st.challenge = c // a registry that lets everybody ping
	}
	cred, err := s.credential(ctx)
	if err != nil {
		return nil, err
	}
	if cred != st.credential {
		st.credential, st.refresh = cred, ""
	} else if st.challenge.scheme != "bearer" || cred.RegistryToken != "" {
		return nil, nil // the same answer would come again
	}
	if want := c.parameters["scope"]; st.challenge.scheme == "bearer" && want != "" && !slices.Contains(st.scopes, want) && len(want) < 4096 {
		// First, because some token servers look at no other. The one of the session stays; what was asked for in between goes.
		st.scopes = []string{want, s.scope}
	}
	next, err := s.authenticate(ctx, &st)
	if err != nil {
		return nil, err
	}
	s.state = next
	return next, nil
}

// current is the state that requests are sent with. There is one: do has connected.
func (s *session) current(ctx context.Context) (*state, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.unlock()
	return s.state, nil
}

// authorizer adds credentials to requests, to those that go to the registry itself. A redirect may lead anywhere.
type authorizer struct {
	session *session
}

func (a *authorizer) RoundTrip(req *http.Request) (*http.Response, error) {
	defer closeOriginal(req)
	st, err := a.session.current(req.Context())
	if err != nil {
		return nil, err
	}
	ours := sameOrigin(req.URL, &url.URL{Scheme: st.scheme, Host: a.session.api})
	header := ""
	if ours {
		header = st.header
	}
	res, err := a.send(req, header)
	if err != nil || res.StatusCode != http.StatusUnauthorized || !repeatable(req) {
		return res, err
	}
	if ours {
		st, err = a.session.renew(req.Context(), st, res)
		if err != nil || st == nil {
			return settled(res, err)
		}
		header = st.header
	} else if header, err = a.session.visit(req.Context(), req.URL, res); err != nil || header == "" {
		return settled(res, err)
	}
	discard(res.Body)
	return a.send(req, header)
}

// closeOriginal closes the body of a request of which copies were sent.
func closeOriginal(req *http.Request) {
	if req.Body != nil && req.GetBody != nil {
		_ = req.Body.Close()
	}
}

// settled is the end of a request that is not repeated.
func settled(res *http.Response, err error) (*http.Response, error) {
	if err != nil {
		discard(res.Body)
		return nil, err
	}
	return res, nil
}

// send sends a copy of req, whose body can so be sent again.
func (a *authorizer) send(req *http.Request, authorization string) (*http.Response, error) {
	again, err := rewind(req)
	if err != nil {
		return nil, err
	}
	again.Header.Del("Authorization") // which net/http takes from a URL, if there is one
	if authorization != "" {
		again.Header.Set("Authorization", authorization)
	}
	return a.session.base.RoundTrip(again)
}

// visit answers the challenge of a host that a redirect has led to, as nobody in particular: registries that spread their load
// redirect to others, which give everybody a token.
func (s *session) visit(ctx context.Context, u *url.URL, res *http.Response) (string, error) {
	c := pickChallenge(res.Header)
	if c.scheme != "bearer" {
		return "", nil
	}
	st := &state{scheme: u.Scheme, challenge: c}
	if scope := c.parameters["scope"]; scope != "" && len(scope) < 4096 {
		st.scopes = []string{scope}
	}
	t, err := s.fetchToken(ctx, st)
	if err != nil {
		return "", err
	}
	return "Bearer " + t.value, nil
}

// do sends a request and returns its answer if the status is one of want.
func (r *Repository) do(req *http.Request, what string, want ...int) (*http.Response, error) {
	st, err := r.session.connect(req.Context())
	if err != nil {
		return nil, r.newError(req.Method, what, err)
	}
	if req.URL.Host == r.session.api {
		req.URL.Scheme = st.scheme
	}
	res, err := st.http.Do(req)
	if err != nil {
		return nil, r.newError(req.Method, what, err)
	}
	if slices.Contains(want, res.StatusCode) {
		return res, nil
	}
	return nil, r.statusError(res, req.Method, what)
}

// sameOrigin compares where two URLs lead: scheme, host and port.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	}
	return "443"
}

// hostname is a host without its port.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}
