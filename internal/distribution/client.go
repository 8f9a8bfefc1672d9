package distribution

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Credential is what a registry accepts in place of anonymity. The zero value is anonymous.
type Credential struct {
	Username      string
	Password      string
	IdentityToken string // OAuth2 refresh token, exchanged for access tokens
	RegistryToken string // access token, sent as it is
}

// Config says how a client talks. The zero value of every field is its default.
type Config struct {
	Transport   http.RoundTripper                                          // default: our own, with time-outs
	Proxy       func(*http.Request) (*url.URL, error)                      // used by the default transport; default: none
	PlainHTTP   bool                                                       // HTTP when a registry does not speak HTTPS
	Credentials func(ctx context.Context, host string) (Credential, error) // default: anonymous
	UserAgent   string                                                     // default: "hpcimg"
	IdleTimeout time.Duration                                              // default: one minute
	RetryBudget time.Duration                                              // longest sum of waits of a request; default: one minute, negative: none
	Logger      *slog.Logger
}

// Client holds the connections and tokens for any number of registries.
type Client struct {
	config Config

	mu       sync.Mutex
	sessions map[string]*session
}

// New returns a client. It does nothing on the wire yet.
func New(config *Config) *Client {
	c := &Client{sessions: map[string]*session{}}
	if config != nil {
		c.config = *config
	}
	if c.config.Transport == nil {
		c.config.Transport = newTransport(c.config.Proxy)
	}
	if c.config.UserAgent == "" {
		c.config.UserAgent = "hpcimg"
	}
	if c.config.IdleTimeout <= 0 {
		c.config.IdleTimeout = time.Minute
	}
	if c.config.RetryBudget == 0 {
		c.config.RetryBudget = time.Minute
	}
	if c.config.Logger == nil {
		c.config.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Rights are what a token is asked for.
type Rights string

// Rights of a repository.
const (
	Pull     Rights = "pull"
	PullPush Rights = "pull,push"
)

// Repository is one repository of one registry.
type Repository struct {
	host    string // as people write it
	name    string
	base    string // https://API-HOST/v2/NAME
	session *session
}

// Repository returns the repository called repo at host. Both must have been validated by the caller.
func (c *Client) Repository(host, repo string, rights Rights) (*Repository, error) {
	// go-containerregistry maps docker.io to its API host, and tries HTTP after HTTPS only with registries it calls insecure.
	var options []name.Option
	if c.config.PlainHTTP || isLoopback((&url.URL{Host: host}).Hostname()) {
		options = append(options, name.Insecure)
	}
	parsed, err := name.NewRepository(host+"/"+repo, options...)
	if err != nil {
		return nil, err
	}
	key := host + "/" + repo + " " + string(rights)
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sessions[key]
	if s == nil {
		s = c.newSession(host, parsed, rights)
		c.sessions[key] = s
	}
	return &Repository{
		host:    host,
		name:    repo,
		base:    "https://" + parsed.RegistryStr() + "/v2/" + parsed.RepositoryStr(),
		session: s,
	}, nil
}

// session is the authenticated way to one repository, made by the first request.
type session struct {
	client *Client
	host   string
	repo   name.Repository
	rights Rights
	base   http.RoundTripper

	turn chan struct{} // a mutex that a context can give up on
	http *http.Client
}

func (c *Client) newSession(host string, repo name.Repository, rights Rights) *session {
	u := url.URL{Host: repo.RegistryStr()}
	var rt http.RoundTripper = &watchdog{next: c.config.Transport, idle: c.config.IdleTimeout}
	rt = &guard{
		next:      rt,
		plainHTTP: c.config.PlainHTTP,
		loopback:  isLoopback(u.Hostname()),
		userAgent: c.config.UserAgent,
	}
	rt = &retry{next: rt, budget: c.config.RetryBudget, logger: c.config.Logger}
	return &session{client: c, host: host, repo: repo, rights: rights, base: rt, turn: make(chan struct{}, 1)}
}

// connect authenticates once. A failure is not kept: the next request tries again, perhaps with a living context.
func (s *session) connect(ctx context.Context) (*http.Client, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.http != nil {
		return s.http, nil
	}
	auth := authn.Anonymous
	if s.client.config.Credentials != nil {
		cred, err := s.client.config.Credentials(ctx, s.host)
		if err != nil {
			return nil, fmt.Errorf("credentials for %s: %w", s.host, err)
		}
		if cred != (Credential{}) {
			auth = authn.FromConfig(authConfig(cred))
		}
	}
	scopes := []string{s.repo.Scope(string(s.rights))}
	rt, err := transport.NewWithContext(ctx, s.repo.Registry, auth, s.base, scopes)
	if err != nil {
		return nil, err
	}
	s.http = &http.Client{Transport: rt, CheckRedirect: checkRedirect}
	return s.http, nil
}

func authConfig(c Credential) authn.AuthConfig {
	return authn.AuthConfig{
		Username:      c.Username,
		Password:      c.Password,
		IdentityToken: c.IdentityToken,
		RegistryToken: c.RegistryToken,
	}
}

// do sends a request and returns its answer if the status is one of want.
func (r *Repository) do(req *http.Request, what string, want ...int) (*http.Response, error) {
	client, err := r.session.connect(req.Context())
	if err != nil {
		return nil, r.newError(req.Method, what, err)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, r.newError(req.Method, what, err)
	}
	if slices.Contains(want, res.StatusCode) {
		return res, nil
	}
	return nil, r.statusError(res, req.Method, what)
}
