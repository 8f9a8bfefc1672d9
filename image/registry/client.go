package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

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
// do not count as a pull. The descriptor is the registry's claim; opening the image by its digest is what verifies it.
func (c *Client) Resolve(ctx context.Context, ref string) (image.Descriptor, error) {
	r, repo, err := c.repository(ref, distribution.Pull)
	if err != nil {
		return image.Descriptor{}, err
	}
	name := r.Tag
	if r.Digest != "" {
		name = r.Digest.String()
	}
	doc, err := repo.HeadManifest(ctx, name, []string{
		ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest,
		"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
	})
	if err != nil {
		return image.Descriptor{}, describe("resolve", r, err)
	}
	if doc.Digest == "" {
		doc.Digest = r.Digest
	}
	if err := doc.Digest.Validate(); err != nil {
		return image.Descriptor{}, describe("resolve", r, fmt.Errorf("digest from registry: %w", err))
	}
	if r.Digest != "" && doc.Digest != r.Digest {
		return image.Descriptor{}, describe("resolve", r, &image.DigestError{
			Descriptor: image.Descriptor{Digest: r.Digest, Size: doc.Size}, Got: doc.Digest, GotSize: doc.Size,
		})
	}
	return image.Descriptor{MediaType: doc.MediaType, Digest: doc.Digest, Size: max(doc.Size, 0)}, nil
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
	return fmt.Errorf("registry: %s %s: %w", op, ref, err)
}
