package distribution

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
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
	TLS         *tls.Config                                                // used by the default transport; default: the system's certificates
	PlainHTTP   bool                                                       // HTTP when a registry does not speak HTTPS
	Credentials func(ctx context.Context, host string) (Credential, error) // default: anonymous
	UserAgent   string                                                     // default: "hpcimg"
	IdleTimeout time.Duration                                              // default: one minute
	MinRate     int64                                                      // bytes a second that a body brings at least; default: 1024, negative: none
	MaxRate     int64                                                      // bytes a second of all bodies together; default: no limit
	Ranges      int                                                        // requests side by side for one large blob; default: 1
	RetryBudget time.Duration                                              // longest sum of waits without progress; default: one minute, negative: none
	Attempts    int                                                        // requests in a row without progress; default: 8
	Logger      *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.UserAgent == "" {
		c.UserAgent = "hpcimg"
	}
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = time.Minute
	}
	if c.MinRate == 0 {
		c.MinRate = 1024
	}
	if c.RetryBudget == 0 {
		c.RetryBudget = time.Minute
	}
	if c.Attempts <= 0 {
		c.Attempts = 8
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// maxSessions bounds what a client remembers; a session that was forgotten authenticates again.
const maxSessions = 1024

// Client holds the connections and tokens for any number of registries.
type Client struct {
	config Config
	ours   bool  // the transport
	pace   *pace // nil for no limit

	mu       sync.Mutex
	sessions map[string]*session
	ill      map[string]illness // hosts that failed, where there were others
}

// New returns a client. It does nothing on the wire yet.
func New(config *Config) *Client {
	c := &Client{sessions: map[string]*session{}, ill: map[string]illness{}}
	if config != nil {
		c.config = *config
	}
	c.config = c.config.withDefaults()
	if c.config.MaxRate > 0 {
		c.pace = &pace{rate: c.config.MaxRate}
	}
	if c.config.Transport == nil {
		c.config.Transport, c.ours = newTransport(c.config), true
	}
	return c
}

// CloseIdle closes the connections that no request uses. The client stays usable. A transport of the caller's is left alone.
func (c *Client) CloseIdle() {
	if c.ours {
		c.config.dropIdle()
	}
}

// dropIdle gets rid of connections on which nothing happens. After a stall one of them may be dead, and with HTTP/2 it would be used
// for the next attempt, too.
func (c *Config) dropIdle() {
	if t, ok := c.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
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
	base    string // https://API-HOST/v2/NAME; requests get the scheme that the registry speaks
	client  *Client
	session *session
}

// Place is where a repository is.
type Place struct {
	Host, Repository string
	PlainHTTP        bool // as Config.PlainHTTP, which holds for all hosts
	// Standby is a place that there is another one for: what fails there is not tried for long.
	Standby bool
}

// Repository returns the repository called repo at host. Both must have been validated by the caller.
func (c *Client) Repository(host, repo string, rights Rights) (*Repository, error) {
	return c.repositoryAt(Place{Host: host, Repository: repo}, rights)
}

func (c *Client) repositoryAt(at Place, rights Rights) (*Repository, error) {
	host, repo := at.Host, at.Repository
	// go-containerregistry knows that docker.io has its API elsewhere.
	parsed, err := name.NewRepository(host + "/" + repo)
	if err != nil {
		return nil, err
	}
	key := fmt.Sprintf("%s/%s %s %t %t", host, repo, rights, at.PlainHTTP, at.Standby)
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sessions[key]
	if s == nil {
		s = c.newSession(at, parsed.RegistryStr(), parsed.Scope(string(rights)))
		for forgotten := range c.sessions {
			if len(c.sessions) < maxSessions {
				break
			}
			delete(c.sessions, forgotten)
		}
		c.sessions[key] = s
	}
	return &Repository{
		host:    host,
		name:    repo,
		base:    "https://" + parsed.RegistryStr() + "/v2/" + parsed.RepositoryStr(),
		client:  c,
		session: s,
	}, nil
}
