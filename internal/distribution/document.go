package distribution

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Document is the answer to a request for a manifest.
type Document struct {
	MediaType string        // without parameters; what the registry said, which may be nothing
	Digest    digest.Digest // what the registry claims; unchecked and perhaps empty
	Size      int64         // -1 if unknown; unchecked
	Raw       []byte        // unchecked
}

// Manifest reads the manifest or index called ref, a tag or a digest, of at most limit bytes; ErrTooLong if it has more.
func (r *Repository) Manifest(ctx context.Context, ref string, accept []string, limit int64) (*Document, error) {
	header := http.Header{"Accept": {strings.Join(accept, ", ")}}
	res, raw, err := r.fetch(ctx, r.base+"/manifests/"+ref, header, "manifest", limit)
	if err != nil {
		return nil, err
	}
	d := newDocument(res)
	d.Raw, d.Size = raw, int64(len(raw))
	return d, nil
}

// HeadManifest is Manifest without a body: cheap, and not counted by registries that limit pulls.
func (r *Repository) HeadManifest(ctx context.Context, ref string, accept []string) (*Document, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, r.base+"/manifests/"+ref, nil)
	if err != nil {
		return nil, r.newError(http.MethodHead, "manifest", err)
	}
	req.Header.Set("Accept", strings.Join(accept, ", "))
	res, err := r.do(req, "manifest", http.StatusOK)
	if err != nil {
		return nil, err
	}
	_ = res.Body.Close()
	return newDocument(res), nil
}

func newDocument(res *http.Response) *Document {
	return &Document{
		MediaType: mediaType(res),
		Digest:    digest.Digest(res.Header.Get("Docker-Content-Digest")),
		Size:      res.ContentLength,
	}
}

// mediaType is what an answer says that it is, without parameters.
func mediaType(res *http.Response) string {
	t, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

// fetch reads a document as a whole. Should it break in the middle, it is asked for again: it is short, and what a tag names may
// have changed.
func (r *Repository) fetch(ctx context.Context, url string, header http.Header, what string, limit int64) (*http.Response, []byte, error) {
	p := newPatience(r.session.config)
	for {
		started := time.Now()
		res, raw, err := r.fetchOnce(ctx, url, header, what, limit)
		if err == nil {
			return res, raw, nil
		}
		if !passing(err) {
			return nil, nil, err
		}
		if err := p.wait(ctx, err, time.Since(started)); err != nil {
			return nil, nil, err
		}
	}
}

func (r *Repository) fetchOnce(ctx context.Context, url string, header http.Header, what string, limit int64) (*http.Response, []byte, *Error) {
	req, err := http.NewRequestWithContext(withoutRetries(ctx), http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, r.newError(http.MethodGet, what, err)
	}
	req.Header = header.Clone()
	res, err := r.do(req, what, http.StatusOK)
	if err != nil {
		return nil, nil, r.newError(http.MethodGet, what, err)
	}
	tooLong := fmt.Errorf("%w: more than %d bytes", ErrTooLong, limit)
	if res.ContentLength > limit {
		_ = res.Body.Close()
		return nil, nil, r.newError(http.MethodGet, what, tooLong)
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	_ = res.Body.Close()
	if err == nil && int64(len(raw)) > limit {
		err = tooLong
	}
	if err != nil {
		return nil, nil, r.newError(http.MethodGet, what, err)
	}
	return res, raw, nil
}

// passing reports whether a request may succeed when it is sent again.
func passing(err *Error) bool {
	if err.Status != 0 {
		return transientStatus(err.Status)
	}
	return !errors.Is(err, ErrTooLong) && transient(err.Err)
}
