package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"hpcimg/image"
	"hpcimg/internal/distribution"
)

// maxDocumentBlob bounds what Blob reads into memory.
const maxDocumentBlob = 4 << 20

// Manifest reads the manifest or index that a reference names as it is, of at most 4 MiB, and returns it with its descriptor. Its digest is
// verified if the reference has one. The error is fs.ErrNotExist if there is none.
func (c *Client) Manifest(ctx context.Context, ref string) (image.Descriptor, []byte, error) {
	r, repo, err := c.repository(ref, distribution.Pull)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	name := r.Tag
	if r.Digest != "" {
		name = r.Digest.String()
	}
	doc, err := repo.Manifest(ctx, name, manifestTypes(), maxManifest)
	if err != nil {
		return image.Descriptor{}, nil, describe("read", r, err)
	}
	algorithm := digest.SHA256
	if r.Digest != "" {
		algorithm = r.Digest.Algorithm()
	}
	d := image.Descriptor{MediaType: doc.MediaType, Digest: algorithm.FromBytes(doc.Raw), Size: int64(len(doc.Raw))}
	if r.Digest != "" && r.Digest != d.Digest {
		err := &image.DigestError{Descriptor: image.Descriptor{Digest: r.Digest, Size: d.Size}, Got: d.Digest, GotSize: d.Size}
		return image.Descriptor{}, nil, describe("read", r, err)
	}
	return d, doc.Raw, nil
}

// Blob reads a small blob of the repository that ref names: at most 4 MiB, whose size and digest are verified.
func (c *Client) Blob(ctx context.Context, ref string, d image.Descriptor) ([]byte, error) {
	r, repo, err := c.repository(ref, distribution.Pull)
	if err != nil {
		return nil, err
	}
	data, err := readBlob(ctx, repo, d)
	if err != nil {
		return nil, describe("read", r, err)
	}
	return data, nil
}

func readBlob(ctx context.Context, repo *distribution.Repository, d image.Descriptor) ([]byte, error) {
	if d.Size < 0 || d.Size > maxDocumentBlob {
		return nil, fmt.Errorf("blob of %d bytes: %w", d.Size, image.ErrLimit)
	}
	if err := d.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w", distribution.Clip(d.Digest.String(), 100), err)
	}
	rc, err := repo.Blob(ctx, d.Digest, d.Size)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	data, err := io.ReadAll(io.LimitReader(rc, d.Size+1))
	if err != nil {
		return nil, err
	}
	if got := d.Digest.Algorithm().FromBytes(data); got != d.Digest || int64(len(data)) != d.Size {
		return nil, &image.DigestError{Descriptor: d, Got: got, GotSize: int64(len(data))}
	}
	return data, nil
}

// PutBlob stores a small blob in the repository that ref names, unless it is there, and returns its descriptor.
func (c *Client) PutBlob(ctx context.Context, ref, mediaType string, data []byte) (image.Descriptor, error) {
	r, repo, err := c.repository(ref, distribution.PullPush)
	if err != nil {
		return image.Descriptor{}, err
	}
	d := image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	has, err := repo.HasBlob(ctx, d.Digest)
	if err == nil && !has {
		_, err = repo.PushBlob(ctx, d.Digest, d.Size, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, nil)
	}
	if err != nil {
		return image.Descriptor{}, describe("push", r, err)
	}
	return d, nil
}

// PutManifest stores a manifest or index, under the tag of ref or, if that has none, its digest, and returns its descriptor. If it has
// a subject it is then among the [Client.Referrers] of that.
func (c *Client) PutManifest(ctx context.Context, ref, mediaType string, raw []byte) (image.Descriptor, error) {
	r, repo, err := c.repository(ref, distribution.PullPush)
	if err != nil {
		return image.Descriptor{}, err
	}
	d := image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	name := r.Tag
	switch {
	case r.Digest != "" && r.Digest != d.Digest:
		err = &image.DigestError{Descriptor: image.Descriptor{Digest: r.Digest, Size: d.Size}, Got: d.Digest, GotSize: d.Size}
		return image.Descriptor{}, describe("push", r, err)
	case r.Digest != "" || name == "":
		name = d.Digest.String()
	}
	pushed, err := repo.PushManifest(ctx, name, mediaType, raw)
	if err == nil {
		var m image.Manifest // or an index, whose subject is in the same place
		_ = json.Unmarshal(raw, &m)
		err = listReferrer(ctx, repo, pushed, d, m)
	}
	if err != nil {
		return image.Descriptor{}, describe("push", r, err)
	}
	return d, nil
}
