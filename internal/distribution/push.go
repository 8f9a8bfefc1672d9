package distribution

import (
	"bytes"
	"context"
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"
)

// HasBlob asks whether the repository has a blob.
func (r *Repository) HasBlob(ctx context.Context, d digest.Digest) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, r.base+"/blobs/"+d.String(), nil)
	if err != nil {
		return false, r.newError(http.MethodHead, "blob", err)
	}
	res, err := r.do(req, "blob", http.StatusOK, http.StatusNotFound)
	if err != nil {
		return false, err
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK, nil
}

// lazyBody opens a body when it is read, which it may never be: requests are sent with copies.
type lazyBody struct {
	open func() (io.ReadCloser, error)
	body io.ReadCloser
}

func (b *lazyBody) Read(p []byte) (int, error) {
	if b.body == nil {
		body, err := b.open()
		if err != nil {
			return 0, err
		}
		b.body = body
	}
	return b.body.Read(p)
}

func (b *lazyBody) Close() error {
	if b.body == nil {
		return nil
	}
	return b.body.Close()
}

// Pushed is what a registry says of a manifest that it has stored.
type Pushed struct {
	Digest  digest.Digest // unchecked, and empty if it says nothing
	Subject bool          // the registry lists the manifest among the referrers of its subject
}

// PushManifest stores a manifest or index under ref, a tag or its digest.
func (r *Repository) PushManifest(ctx context.Context, ref, mediaType string, raw []byte) (Pushed, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, r.base+"/manifests/"+ref, bytes.NewReader(raw))
	if err != nil {
		return Pushed{}, r.newError(http.MethodPut, "manifest", err)
	}
	req.Header.Set("Content-Type", mediaType)
	res, err := r.do(req, "manifest", http.StatusCreated, http.StatusAccepted, http.StatusOK)
	if err != nil {
		return Pushed{}, err
	}
	discard(res.Body)
	return Pushed{Digest: digest.Digest(res.Header.Get("Docker-Content-Digest")), Subject: res.Header.Get("OCI-Subject") != ""}, nil
}
