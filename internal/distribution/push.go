package distribution

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

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

// PushBlob uploads a blob of known size. Open is called for each attempt, and again after a redirect or when a token has expired.
func (r *Repository) PushBlob(ctx context.Context, d digest.Digest, size int64, open func() (io.ReadCloser, error)) error {
	p := newPatience(r.session.config)
	for {
		err := r.pushOnce(ctx, d, size, open)
		if err == nil {
			return nil
		}
		// 404: the registry does not know of the upload any more.
		if !passing(err) && (err.Status != http.StatusNotFound || err.Op != opPutBlob) {
			return err
		}
		var spent time.Duration
		if errors.Is(err, ErrStalled) {
			spent = r.session.config.IdleTimeout
		}
		if err := p.wait(ctx, err, spent); err != nil {
			return err
		}
	}
}

const opPutBlob = "PUT blob"

// pushOnce makes one upload of its own: what a registry has of one that broke depends on the registry.
func (r *Repository) pushOnce(ctx context.Context, d digest.Digest, size int64, open func() (io.ReadCloser, error)) *Error {
	ctx = withoutRetries(ctx)
	start, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base+"/blobs/uploads/", http.NoBody)
	if err != nil {
		return r.newError(http.MethodPost, "upload", err)
	}
	res, err := r.do(start, "upload", http.StatusAccepted)
	if err != nil {
		return r.newError(http.MethodPost, "upload", err)
	}
	discard(res.Body)
	target, err := uploadTarget(res, d)
	if err != nil {
		return r.newError(http.MethodPost, "upload", err)
	}
	put, err := http.NewRequestWithContext(ctx, http.MethodPut, target, http.NoBody)
	if err != nil {
		return r.newError(http.MethodPut, "blob", err)
	}
	if size > 0 {
		put.ContentLength = size
		put.GetBody = open
		put.Body = &lazyBody{open: open}
	}
	put.Header.Set("Content-Type", "application/octet-stream")
	res, err = r.do(put, "blob", http.StatusCreated, http.StatusAccepted, http.StatusNoContent)
	if err != nil {
		return r.newError(http.MethodPut, "blob", err)
	}
	discard(res.Body)
	return nil
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

// uploadTarget is the URL that an answer to the start of an upload names, completed by the digest. Credentials follow it only
// if it stays on the registry's host.
func uploadTarget(res *http.Response, d digest.Digest) (string, error) {
	location := res.Header.Get("Location")
	if location == "" {
		return "", fmt.Errorf("no Location to upload to")
	}
	asked := res.Request.URL
	u, err := asked.Parse(location)
	if err != nil {
		return "", fmt.Errorf("no usable Location to upload to")
	}
	if u.Host == asked.Host {
		// A registry behind a proxy that adds TLS does not know of it.
		u.Scheme = asked.Scheme
	}
	if u.Scheme != "https" && asked.Scheme == "https" {
		return "", fmt.Errorf("%w to upload from https to %s", errRefused, Printable(u.Scheme, 20))
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", fmt.Errorf("no usable Location to upload to")
	}
	query.Set("digest", d.String())
	u.RawQuery, u.User = query.Encode(), nil
	return u.String(), nil
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
