package image

import (
	"cmp"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"time"

	"hpcimg/internal/distribution"
)

// Options says how an image is opened. A nil *Options and the zero value mean the same.
type Options struct {
	Platform *Platform       // default, of each half: linux, and the architecture of this program
	Registry RegistryOptions // for references that lead to a registry
	Limits   Limits
	// Cache keeps the blobs of registries: what is in it is not fetched, what breaks off is continued by the next process, and of
	// many that want one blob, on this node or on others that share the directory, one fetches it and the rest read along. It is
	// usually a *cache.Cache of package image/cache. Default: none.
	Cache BlobCache
	// Documents keeps what registries say, usually the same *cache.Cache: manifests, which are not asked for again, and what tags have
	// led to. By digest, an image that is in both caches is opened without asking anybody. Default: none.
	Documents DocumentCache
	// Offline asks no registry anything: a tag leads where it did when somebody asked last, which [Image.Remembered] tells, and what is not in
	// Documents and Cache is an *[OfflineError].
	Offline bool
	// Daemon is for references that lead to Docker or Podman.
	Daemon DaemonOptions
	// Input is what the path - stands for in an oci-archive: or docker-archive: reference, plain or compressed by gzip or zstd. It is read to its
	// end when the image is opened. Default: - is the name of a file.
	Input io.Reader
	// TempDir is where an archive from Input or from a daemon is kept for as long as its image is in use, in a file without a name.
	// Default: the system's.
	TempDir string
	Logger  *slog.Logger // default: silent
}

// DaemonOptions says how Docker or Podman is reached.
type DaemonOptions struct {
	// Address of the daemon as DOCKER_HOST has it: unix:///run/podman/podman.sock, or tcp://localhost:2375, without encryption and therefore
	// only on a loopback address. Default: unix:///var/run/docker.sock.
	Address string
}

// BlobCache keeps blobs. A *cache.Cache of package image/cache is one.
type BlobCache interface {
	// OpenBlob opens a blob by its key, the digest with a hyphen in place of the colon, and takes what it does not have from fetch, which
	// opens the blob at its source from a byte on. The reader must end in io.EOF only if there were size bytes with that
	// digest: nobody else looks. It fails with the errors of fetch, or, if the digest is another one, with an error that has a method
	// Mismatch() string, which returns the key of what there was.
	OpenBlob(ctx context.Context, key string, size int64, fetch func(ctx context.Context, off int64) (io.ReadCloser, error)) (io.ReadCloser, error)
}

// RegistryOptions says how registries are talked to. The zero value of every field is its default.
type RegistryOptions struct {
	// Credentials are asked for when a repository is first used, and again when the registry refuses what they gave. Default:
	// anonymous. Nothing is read from the user's configuration unless a program says so, for example with registry.DockerConfig.
	Credentials Credentials
	// PlainHTTP allows HTTP with registries that do not speak HTTPS. Those on a loopback address may always.
	PlainHTTP bool
	// Transport carries the requests. Default: a transport with time-outs that knows the system's certificates, and of its own
	// for each image that is opened; programs that open many share connections by passing one. It has to leave redirects alone.
	Transport http.RoundTripper
	// Proxy is used by the default transport, for example http.ProxyFromEnvironment. Default: no proxy.
	Proxy func(*http.Request) (*url.URL, error)
	// TLS is used by the default transport: authorities of a site, client certificates. It is copied. Default: the system's authorities.
	TLS *tls.Config
	// Mirrors says where repositories are read from. Pushing does not ask it. Default: where their names say.
	Mirrors Mirrors
	// UserAgent is sent with every request. Default: "hpcimg".
	UserAgent string
	// IdleTimeout ends a request whose peer sends nothing for so long. Default: one minute.
	IdleTimeout time.Duration
	// MinRate is what a peer has to send in the long run, in bytes a second, not to count as silent. Default: 1024; negative: one
	// byte now and then is enough.
	MinRate int64
	// MaxRate bounds what is sent and received, in bytes a second, of all that is read of one image, or all that one client or one push
	// does. Default: no limit.
	MaxRate int64
	// Ranges is how many parts of a blob of 64 MiB or more are requested side by side, for registries that slow down single connections.
	// Each takes 8 MiB of memory. Default: 1.
	Ranges int
	// RetryBudget bounds the waiting, between attempts and for answers that do not come, since the last mebibyte arrived. Requests
	// are repeated after 429, 5xx and broken connections, and a blob that breaks off is continued where it stopped. Default: one
	// minute; negative: nothing is repeated or continued.
	RetryBudget time.Duration
	// Attempts bounds the requests in a row that bring less than a mebibyte. Default: 8.
	Attempts int
}

// Credentials finds the credential for a registry, named as in [Reference.Host]. The zero Credential means anonymous. It may be
// called from several goroutines.
type Credentials func(ctx context.Context, host string) (Credential, error)

// Credential is what a registry accepts in place of anonymity.
type Credential struct {
	Username      string
	Password      string
	IdentityToken string // OAuth2 refresh token, exchanged for access tokens
	RegistryToken string // access token, sent as it is
}

// Limits bound what a document from outside may cost before it is read. The zero value of every field is its default.
type Limits struct {
	ManifestBytes int64 // of a manifest or index; default 4 MiB, what registries have to accept at least
	ConfigBytes   int64 // default 8 MiB
	Layers        int   // of one image; default 10,000
	Manifests     int   // of one index; default 10,000
}

const (
	defaultManifestBytes = 4 << 20
	defaultConfigBytes   = 8 << 20
	defaultLayers        = 10_000
	defaultManifests     = 10_000

	maxIndexDepth = 4        // indexes above a manifest
	maxDocuments  = 64       // manifests and indexes read to find one platform
	maxData       = 1 << 20  // bytes embedded in a descriptor
	maxURLs       = 64       // of one descriptor; never fetched
	maxMediaType  = 255      // bytes of a media type
	maxDepth      = 32       // nesting of JSON
	maxMembers    = 1 << 16  // of one JSON object or array
	maxAnnotation = 64 << 10 // bytes of one annotation or label
)

func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	if c.Platform == nil {
		c.Platform = &Platform{}
	}
	p := *c.Platform
	p.OS, p.Architecture = cmp.Or(p.OS, "linux"), cmp.Or(p.Architecture, runtime.GOARCH)
	c.Platform = &p
	if c.Limits.ManifestBytes <= 0 {
		c.Limits.ManifestBytes = defaultManifestBytes
	}
	if c.Limits.ConfigBytes <= 0 {
		c.Limits.ConfigBytes = defaultConfigBytes
	}
	if c.Limits.Layers <= 0 {
		c.Limits.Layers = defaultLayers
	}
	if c.Limits.Manifests <= 0 {
		c.Limits.Manifests = defaultManifests
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// client makes the wire client that these options describe.
func (o RegistryOptions) client(logger *slog.Logger) *distribution.Client {
	config := &distribution.Config{
		Transport:   o.Transport,
		Proxy:       o.Proxy,
		TLS:         o.TLS,
		PlainHTTP:   o.PlainHTTP,
		UserAgent:   o.UserAgent,
		IdleTimeout: o.IdleTimeout,
		MinRate:     o.MinRate,
		Ranges:      o.Ranges,
		MaxRate:     o.MaxRate,
		RetryBudget: o.RetryBudget,
		Attempts:    o.Attempts,
		Logger:      logger,
	}
	if o.Credentials != nil {
		config.Credentials = func(ctx context.Context, host string) (distribution.Credential, error) {
			c, err := o.Credentials(ctx, host)
			return distribution.Credential(c), err
		}
	}
	return distribution.New(config)
}
