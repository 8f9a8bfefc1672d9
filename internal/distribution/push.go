package distribution

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

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

// PushBlob uploads a blob of known size in one request.
func (r *Repository) PushBlob(ctx context.Context, d digest.Digest, size int64, body io.Reader) error {
	start, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base+"/blobs/uploads/", http.NoBody)
	if err != nil {
		return r.newError(http.MethodPost, "upload", err)
	}
	res, err := r.do(start, "upload", http.StatusAccepted)
	if err != nil {
		return err
	}
	discard(res.Body)
	target, err := uploadTarget(res, d)
	if err != nil {
		return r.newError(http.MethodPost, "upload", err)
	}
	put, err := http.NewRequestWithContext(ctx, http.MethodPut, target, io.NopCloser(body))
	if err != nil {
		return r.newError(http.MethodPut, "upload", err)
	}
	put.ContentLength = size
	if size == 0 {
		put.Body = http.NoBody
	}
	put.Header.Set("Content-Type", "application/octet-stream")
	res, err = r.do(put, "blob", http.StatusCreated, http.StatusAccepted, http.StatusNoContent)
	if err != nil {
		return err
	}
	discard(res.Body)
	return nil
}

// uploadTarget is the URL that an answer to the start of an upload names, completed by the digest. Credentials follow it only
// if it stays on the registry's host: the transport attaches them by host.
func uploadTarget(res *http.Response, d digest.Digest) (string, error) {
	location := res.Header.Get("Location")
	if location == "" {
		return "", fmt.Errorf("no Location to upload to")
	}
	u, err := res.Request.URL.Parse(location)
	if err != nil {
		return "", fmt.Errorf("location to upload to: %w", err)
	}
	if u.Scheme != "https" && res.Request.URL.Scheme == "https" {
		return "", fmt.Errorf("refused to upload from https to %s", u.Scheme)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", fmt.Errorf("location to upload to: %w", err)
	}
	query.Set("digest", d.String())
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// PushManifest stores a manifest or index under ref, a tag or its digest, and returns the digest that the registry reports,
// if it does.
func (r *Repository) PushManifest(ctx context.Context, ref, mediaType string, raw []byte) (digest.Digest, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, r.base+"/manifests/"+ref, bytes.NewReader(raw))
	if err != nil {
		return "", r.newError(http.MethodPut, "manifest", err)
	}
	req.Header.Set("Content-Type", mediaType)
	res, err := r.do(req, "manifest", http.StatusCreated, http.StatusAccepted, http.StatusOK)
	if err != nil {
		return "", err
	}
	discard(res.Body)
	return digest.Digest(res.Header.Get("Docker-Content-Digest")), nil
}
