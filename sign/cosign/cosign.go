package cosign

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"hpcimg/image"
	"hpcimg/sign"
)

// Registry is what signatures need of a registry. References are those of package image with the transport docker:// and a tag or digest; what is missing is
// fs.ErrNotExist. A *registry.Client is one. One that is a Lister as well is asked for referrers, and stores manifests so that it lists them.
type Registry interface {
	Manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error)
	Blob(ctx context.Context, ref string, d image.Descriptor) ([]byte, error)
	PutBlob(ctx context.Context, ref, mediaType string, data []byte) (image.Descriptor, error)
	PutManifest(ctx context.Context, ref, mediaType string, raw []byte) (image.Descriptor, error)
}

// Lister lists the manifests whose subject is the one that ref names by digest.
type Lister interface {
	Referrers(ctx context.Context, ref, artifactType string) ([]image.Descriptor, error)
}

// Format is where and how a signature is kept.
type Format string

// The formats, see the package comment.
const (
	FormatTag    Format = "tag"
	FormatBundle Format = "bundle"
)

const (
	maxSignatures = 50
	maxPayload    = 1 << 20
)

// ErrUnsigned is matched by the error of Verify about an image without a signature by a trusted key.
var ErrUnsigned = errors.New("cosign: no signature by a trusted key")

// Options say how Sign signs.
type Options struct {
	// Formats that are made; empty: FormatTag, which every version of cosign reads.
	Formats []Format
	// Identity is the docker-reference of the payload of FormatTag; empty: host/path of the repository.
	Identity string
	// Annotations are signed with it.
	Annotations map[string]string
	// Time is the time of creation of FormatBundle; zero: none is stated.
	Time time.Time
}

// Sign signs the manifest that ref names at the moment and stores the signature beside it. It returns the descriptor of the manifest. Signatures that
// are there stay. Two that are stored at the same time may lose one, for registries have no locks: nothing but a repeated Sign brings it back.
func Sign(ctx context.Context, r Registry, ref string, signer crypto.Signer, opts *Options) (image.Descriptor, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	repo, err := repositoryOf(ref)
	if err != nil {
		return image.Descriptor{}, err
	}
	d, _, err := r.Manifest(ctx, ref)
	if err != nil {
		return image.Descriptor{}, err
	}
	if len(o.Formats) == 0 {
		o.Formats = []Format{FormatTag}
	}
	if o.Identity == "" {
		o.Identity = string(repo)
	}
	for _, f := range o.Formats {
		switch f {
		case FormatTag:
			err = signTag(ctx, r, repo, d, signer, &o)
		case FormatBundle:
			err = signBundle(ctx, r, repo, d, signer, &o)
		default:
			err = fmt.Errorf("cosign: Options.Formats: %q: %w", f, fs.ErrInvalid)
		}
		if err != nil {
			return image.Descriptor{}, err
		}
	}
	return d, nil
}

// Result is what Verify found.
type Result struct {
	Digest     digest.Digest // of the manifest
	Signatures []Signature
}

// Keys returns the keys that have validly signed the manifest, each once.
func (r *Result) Keys() []crypto.PublicKey {
	var keys []crypto.PublicKey
	seen := make(map[string]bool)
	for _, s := range r.Signatures {
		if s.Err != nil || s.Key == nil {
			continue
		}
		if id, err := sign.PublicKeyID(s.Key); err == nil && !seen[id] {
			seen[id] = true
			keys = append(keys, s.Key)
		}
	}
	return keys
}

// Signature is the verdict on one signature.
type Signature struct {
	Format Format
	// Key made it; nil if none of the trusted ones did.
	Key crypto.PublicKey
	// Identity is the docker-reference that a payload of FormatTag claims.
	Identity string
	// Annotations were signed with it.
	Annotations map[string]string
	// Err is nil if it is valid. It is ErrUnsigned for a signature by an unknown key.
	Err error
}

// Verify looks for signatures of the manifest that ref names. The error is nil if there is a valid one by one of keys, and matches ErrUnsigned if
// there is none; then the Result is there as well.
func Verify(ctx context.Context, r Registry, ref string, keys []crypto.PublicKey) (*Result, error) {
	repo, err := repositoryOf(ref)
	if err != nil {
		return nil, err
	}
	parsed, err := image.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	result := &Result{Digest: parsed.Digest}
	if result.Digest == "" {
		d, _, err := r.Manifest(ctx, ref)
		if err != nil {
			return nil, err
		}
		result.Digest = d.Digest
	}
	for _, find := range []func(context.Context, Registry, repository, digest.Digest, []crypto.PublicKey) ([]Signature, error){verifyTag, verifyBundles} {
		found, err := find(ctx, r, repo, result.Digest, keys)
		if err != nil {
			return nil, fmt.Errorf("cosign: %w", err)
		}
		result.Signatures = append(result.Signatures, found...)
	}
	if len(result.Keys()) == 0 {
		return result, fmt.Errorf("%s@%s: %w", repo, result.Digest, ErrUnsigned)
	}
	return result, nil
}

// repository is host/path.
type repository string

func repositoryOf(ref string) (repository, error) {
	r, err := image.ParseReference(ref)
	if err != nil {
		return "", err
	}
	if r.Transport != image.TransportDocker && r.Transport != image.TransportORAS {
		return "", &image.ReferenceError{Reference: ref, Err: errors.New("does not lead to a registry")}
	}
	return repository(r.Host + "/" + r.Repository), nil
}

func (r repository) tag(tag string) string         { return "docker://" + string(r) + ":" + tag }
func (r repository) digest(d digest.Digest) string { return "docker://" + string(r) + "@" + d.String() }

// tagOf is the tag that stands for a digest.
func tagOf(d digest.Digest) string { return strings.Replace(d.String(), ":", "-", 1) }

// whose returns the key that made a signature.
func whose(keys []crypto.PublicKey, message, sig []byte) crypto.PublicKey {
	for _, k := range keys {
		if sign.VerifyMessage(k, message, sig) {
			return k
		}
	}
	return nil
}

// missing turns "there is none" into "there are no signatures".
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
