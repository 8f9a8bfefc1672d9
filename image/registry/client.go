package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/image"
	"hpcimg/internal/distribution"
)

// Client asks registries questions. It keeps connections and tokens.
type Client struct {
	wire *distribution.Client
}

// NewClient returns a client. Nil options are the defaults.
func NewClient(opts *image.RegistryOptions) *Client {
	var o image.RegistryOptions
	if opts != nil {
		o = *opts
	}
	return &Client{wire: newWire(o, nil)}
}

// Tags lists the tags of the repository that a docker:// or oras:// reference names, sorted.
func (c *Client) Tags(ctx context.Context, ref string) ([]string, error) {
	r, repo, err := c.repository(ref, distribution.Pull)
	if err != nil {
		return nil, err
	}
	tags, err := repo.Tags(ctx)
	if err != nil {
		return nil, describe("tags", r, err)
	}
	slices.Sort(tags)
	return slices.Compact(tags), nil
}

// Resolve returns the descriptor of what a reference names at the moment, without reading it: one HEAD request, which registries
// do not count as a pull. The descriptor is the registry's claim; opening the image by its digest is what verifies it. A
// registry that answers HEAD without a digest is asked for the manifest itself.
func (c *Client) Resolve(ctx context.Context, ref string) (image.Descriptor, error) {
	r, repo, err := c.repository(ref, distribution.Pull)
	if err != nil {
		return image.Descriptor{}, err
	}
	d, err := resolve(ctx, repo, r)
	if err != nil {
		return image.Descriptor{}, describe("resolve", r, err)
	}
	return d, nil
}

// maxManifest is what registries have to accept at least, and what image.Open reads at most by default.
const maxManifest = 4 << 20

func manifestTypes() []string {
	return []string{
		ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest,
		"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
	}
}

func resolve(ctx context.Context, repo *distribution.Repository, r image.Reference) (image.Descriptor, error) {
	name := r.Tag
	if r.Digest != "" {
		name = r.Digest.String()
	}
	accept := manifestTypes()
	doc, err := repo.HeadManifest(ctx, name, accept)
	e, failed := errors.AsType[*distribution.Error](err)
	switch {
	case failed && e.Status != http.StatusMethodNotAllowed && e.Status != http.StatusNotImplemented:
		return image.Descriptor{}, err
	case failed, doc.Digest == "", doc.Size < 0:
		if doc, err = repo.Manifest(ctx, name, accept, maxManifest); err != nil {
			return image.Descriptor{}, err
		}
		algorithm := digest.SHA256
		if r.Digest != "" {
			algorithm = r.Digest.Algorithm()
		}
		doc.Digest = algorithm.FromBytes(doc.Raw)
	}
	if err := doc.Digest.Validate(); err != nil {
		return image.Descriptor{}, fmt.Errorf("the registry's digest %q: %w", distribution.Clip(doc.Digest.String(), 100), err)
	}
	if r.Digest != "" && doc.Digest != r.Digest {
		return image.Descriptor{}, &image.DigestError{
			Descriptor: image.Descriptor{Digest: r.Digest, Size: doc.Size}, Got: doc.Digest, GotSize: doc.Size,
		}
	}
	return image.Descriptor{MediaType: doc.MediaType, Digest: doc.Digest, Size: doc.Size}, nil
}

func (c *Client) repository(ref string, rights distribution.Rights) (image.Reference, *distribution.Repository, error) {
	r, err := image.ParseReference(ref)
	if err != nil {
		return r, nil, err
	}
	if r.Transport != image.TransportDocker && r.Transport != image.TransportORAS {
		return r, nil, &image.ReferenceError{Reference: ref, Err: errors.New("does not lead to a registry: want docker:// or oras://")}
	}
	repo, err := c.wire.Repository(r.Host, r.Repository, rights)
	if err != nil {
		return r, nil, &image.ReferenceError{Reference: ref, Err: err}
	}
	return r, repo, nil
}

// boundError is an error as it leaves the package. What registries say is in its text, fit for a terminal and a log.
type boundError struct {
	op  string
	ref image.Reference
	err error
}

func (e *boundError) Error() string {
	return distribution.Printable(fmt.Sprintf("registry: %s %s: %v", e.op, e.ref, e.err), 1900)
}

func (e *boundError) Unwrap() error { return e.err }

// describe says at the package's boundary what failed for which reference, in the error types of package image.
func describe(op string, ref image.Reference, err error) error {
	if e, ok := errors.AsType[*distribution.Error](err); ok {
		switch {
		case e.Unauthorized():
			err = &image.UnauthorizedError{Host: e.Host, Repository: e.Repository, Err: e.Err}
		case e.NotFound():
			err = fmt.Errorf("no such %s in %s at %s: %w", e.What, e.Repository, e.Host, fs.ErrNotExist)
		default:
			err = &image.TransportError{Host: e.Host, Op: e.Op, Status: e.Status, RetryAfter: e.RetryAfter, Err: e.Err}
		}
	}
	return &boundError{op: op, ref: ref, err: err}
}
