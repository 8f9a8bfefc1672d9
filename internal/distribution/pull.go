package distribution

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Document is the answer to a request for a manifest. The caller bounds and closes Body.
type Document struct {
	MediaType string        // without parameters; what the registry said, which may be nothing
	Digest    digest.Digest // what the registry claims; unchecked and perhaps empty
	Size      int64         // -1 if unknown; unchecked
	Body      io.ReadCloser
}

// Manifest requests the manifest or index called ref, a tag or a digest.
func (r *Repository) Manifest(ctx context.Context, ref string, accept []string) (*Document, error) {
	return r.manifest(ctx, http.MethodGet, ref, accept)
}

// HeadManifest is Manifest without a body: cheap, and not counted by registries that limit pulls.
func (r *Repository) HeadManifest(ctx context.Context, ref string, accept []string) (*Document, error) {
	doc, err := r.manifest(ctx, http.MethodHead, ref, accept)
	if err != nil {
		return nil, err
	}
	_ = doc.Body.Close()
	doc.Body = nil
	return doc, nil
}

func (r *Repository) manifest(ctx context.Context, method, ref string, accept []string) (*Document, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.base+"/manifests/"+ref, nil)
	if err != nil {
		return nil, r.newError(method, "manifest", err)
	}
	req.Header.Set("Accept", strings.Join(accept, ", "))
	res, err := r.do(req, "manifest", http.StatusOK)
	if err != nil {
		return nil, err
	}
	mediaType, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil {
		mediaType = ""
	}
	return &Document{
		MediaType: mediaType,
		Digest:    digest.Digest(res.Header.Get("Docker-Content-Digest")),
		Size:      res.ContentLength,
		Body:      r.body(res, "manifest"),
	}, nil
}

// Blob requests a blob. Its bytes are unverified; reading fails with *Error.
func (r *Repository) Blob(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+"/blobs/"+d.String(), nil)
	if err != nil {
		return nil, r.newError(http.MethodGet, "blob", err)
	}
	res, err := r.do(req, "blob", http.StatusOK)
	if err != nil {
		return nil, err
	}
	return r.body(res, "blob"), nil
}

// body is the body of res whose read errors say what was being read from whom.
func (r *Repository) body(res *http.Response, what string) io.ReadCloser {
	return &describedBody{ReadCloser: res.Body, repo: r, method: res.Request.Method, what: what}
}

type describedBody struct {
	io.ReadCloser
	repo         *Repository
	method, what string
}

func (b *describedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = b.repo.newError(b.method, b.what, err)
	}
	return n, err
}

const (
	maxTagPage  = 4 << 20
	maxTagPages = 1000
	maxTags     = 1 << 20
)

// Tags lists the tags of the repository, page by page.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	var tags []string
	next, err := url.Parse(r.base + "/tags/list?n=1000")
	if err != nil {
		return nil, r.newError(http.MethodGet, "tag list", err)
	}
	seen := map[string]bool{}
	for next != nil {
		if seen[next.RequestURI()] || len(seen) == maxTagPages || len(tags) > maxTags {
			return nil, r.newError(http.MethodGet, "tag list", fmt.Errorf("the pages do not end"))
		}
		seen[next.RequestURI()] = true
		page, link, err := r.tagPage(ctx, next)
		if err != nil {
			return nil, err
		}
		tags, next = append(tags, page...), link
	}
	return tags, nil
}

func (r *Repository) tagPage(ctx context.Context, u *url.URL) ([]string, *url.URL, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, nil, r.newError(http.MethodGet, "tag list", err)
	}
	res, err := r.do(req, "tag list", http.StatusOK)
	if err != nil {
		return nil, nil, err
	}
	defer discard(res.Body)
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxTagPage+1))
	if err == nil && len(raw) > maxTagPage {
		err = fmt.Errorf("page is longer than %d bytes", maxTagPage)
	}
	var page struct {
		Tags []string `json:"tags"`
	}
	if err == nil {
		err = json.Unmarshal(raw, &page)
	}
	if err != nil {
		return nil, nil, r.newError(http.MethodGet, "tag list", err)
	}
	return page.Tags, nextPage(u, res.Header.Get("Link")), nil
}

// nextPage reads a Link header of the form `<url>; rel="next"`. Links to other hosts are ignored.
func nextPage(u *url.URL, link string) *url.URL {
	target, params, ok := strings.Cut(link, ">")
	if !ok || !strings.HasPrefix(target, "<") || !strings.Contains(params, "next") {
		return nil
	}
	next, err := u.Parse(target[1:])
	if err != nil || next.Host != u.Host {
		return nil
	}
	next.Scheme = u.Scheme
	return next
}
