package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/image"
	"hpcimg/internal/distribution"
)

const (
	maxReferrers = 10_000
	// listAttempts is how often an index under a tag is written in which others may be writing too.
	listAttempts = 5
)

// Referrers lists the manifests that have the one which ref names, by its digest, as their subject: signatures, lists of contents,
// attestations. An artifactType that is not "" picks those of one type. What is listed is the registry's claim, of which nothing but the form
// is verified. Registries that do not know the question have the list in an index under a tag made of the digest; there is none if
// nothing was ever attached.
//
// Besides those of [Client.Manifest] the errors are *image.DocumentError and, for more than 10,000 referrers, *image.LimitError.
func (c *Client) Referrers(ctx context.Context, ref, artifactType string) ([]image.Descriptor, error) {
	r, repo, err := c.repository(ref, distribution.Pull)
	if err != nil {
		return nil, err
	}
	if r.Digest == "" {
		return nil, &image.ReferenceError{Reference: ref, Err: errors.New("names no digest: referrers refer to one")}
	}
	list, err := referrers(ctx, repo, r.Digest, artifactType)
	if err != nil {
		return nil, describe("list referrers of", r, err)
	}
	return list, nil
}

func referrers(ctx context.Context, repo *distribution.Repository, d digest.Digest, artifactType string) ([]image.Descriptor, error) {
	var list []image.Descriptor
	known, err := repo.Referrers(ctx, d, artifactType, maxManifest, func(raw []byte) error {
		index, err := image.ParseIndex(raw, ocispec.MediaTypeImageIndex, nil)
		if err != nil {
			return err
		}
		if list = append(list, index.Manifests...); len(list) > maxReferrers {
			return &image.LimitError{What: "referrers", Limit: maxReferrers}
		}
		return nil
	})
	if err == nil && !known {
		var index *image.Index
		if index, err = listedReferrers(ctx, repo, d); err == nil {
			list = index.Manifests
		}
	}
	if err != nil {
		return nil, tooLong(err)
	}
	return slices.DeleteFunc(list, func(m image.Descriptor) bool { return artifactType != "" && m.ArtifactType != artifactType }), nil
}

// tooLong gives a list that is too long the type of this package's errors.
func tooLong(err error) error {
	if errors.Is(err, distribution.ErrTooLong) {
		return &image.LimitError{What: "bytes of a list of referrers", Limit: maxManifest}
	}
	return err
}

// listedReferrers reads the index under the tag that stands for d, or makes an empty one.
func listedReferrers(ctx context.Context, repo *distribution.Repository, d digest.Digest) (*image.Index, error) {
	doc, err := repo.Manifest(ctx, distribution.ReferrersTag(d), []string{ocispec.MediaTypeImageIndex}, maxManifest)
	if e, ok := errors.AsType[*distribution.Error](err); ok && e.NotFound() {
		index := &image.Index{MediaType: ocispec.MediaTypeImageIndex}
		index.SchemaVersion = 2
		return index, nil
	}
	if err != nil {
		return nil, err
	}
	return image.ParseIndex(doc.Raw, doc.MediaType, nil)
}

// listReferrer sees to it that a manifest which has been pushed is found by its subject: if the registry does not, by the index under the
// tag. Others may be writing that at the same time, and the last one wins; so it is read again afterwards.
func listReferrer(ctx context.Context, repo *distribution.Repository, pushed distribution.Pushed, d image.Descriptor, m image.Manifest) error {
	if m.Subject == nil || pushed.Subject {
		return nil
	}
	if err := m.Subject.Digest.Validate(); err != nil {
		return fmt.Errorf("subject %q: %w", distribution.Clip(m.Subject.Digest.String(), 100), err)
	}
	d.ArtifactType, d.Annotations, d.Data = cmp.Or(m.ArtifactType, m.Config.MediaType), m.Annotations, nil
	is := func(other image.Descriptor) bool { return other.Digest == d.Digest }
	for range listAttempts {
		index, err := listedReferrers(ctx, repo, m.Subject.Digest)
		if err != nil {
			return tooLong(err)
		}
		if slices.ContainsFunc(index.Manifests, is) {
			return nil
		}
		if len(index.Manifests) == maxReferrers {
			return &image.LimitError{What: "referrers", Limit: maxReferrers}
		}
		index.Manifests = append(index.Manifests, d)
		raw, err := json.Marshal(index)
		if err != nil {
			return err
		}
		if len(raw) > maxManifest {
			return &image.LimitError{What: "bytes of a list of referrers", Limit: maxManifest}
		}
		if _, err := repo.PushManifest(ctx, distribution.ReferrersTag(m.Subject.Digest), ocispec.MediaTypeImageIndex, raw); err != nil {
			return err
		}
	}
	return fmt.Errorf("others keep writing the list of referrers of %s: attach it again", m.Subject.Digest)
}
