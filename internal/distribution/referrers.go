package distribution

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
)

const (
	maxReferrerPages = 100
	typeIndex        = "application/vnd.oci.image.index.v1+json"
)

// Referrers asks for the manifests that have d as their subject, of one artifact type if that is not empty, and passes on each page, an image
// index of at most limit bytes, unchecked. Registries may ignore the type. It returns false if the registry does not know the
// question; there is an index under a tag then, if anything (see ReferrersTag).
func (r *Repository) Referrers(ctx context.Context, d digest.Digest, artifactType string, limit int64, page func(raw []byte) error) (known bool, err error) {
	const what = "list of referrers"
	next, err := url.Parse(r.base + "/referrers/" + d.String())
	if err != nil {
		return false, r.newError(http.MethodGet, what, err)
	}
	if artifactType != "" {
		next.RawQuery = url.Values{"artifactType": {artifactType}}.Encode()
	}
	seen := map[string]bool{}
	for next != nil {
		if seen[next.RequestURI()] || len(seen) == maxReferrerPages {
			return true, r.newError(http.MethodGet, what, fmt.Errorf("the pages do not end"))
		}
		seen[next.RequestURI()] = true
		res, raw, err := r.fetch(ctx, next.String(), http.Header{"Accept": {typeIndex}}, what, limit)
		if len(seen) == 1 && unknownQuestion(res, err) {
			return false, nil
		}
		if err != nil {
			return true, err
		}
		if err := page(raw); err != nil {
			return true, err
		}
		next = nextPage(next, res.Header.Get("Link"))
	}
	return true, nil
}

// unknownQuestion reports whether an answer is that of a registry without the API for referrers: an error, or whatever page its
// front end shows.
func unknownQuestion(res *http.Response, err error) bool {
	if err == nil {
		return mediaType(res) != typeIndex
	}
	e, ok := err.(*Error) //nolint:errorlint // fetch returns it bare
	if !ok || e.aside {
		return false
	}
	switch e.Status {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented, http.StatusBadRequest:
		return true
	}
	return false
}

// ReferrersTag is the tag under which the referrers of a manifest are listed where registries do not do so themselves.
func ReferrersTag(d digest.Digest) string {
	algorithm := d.Algorithm().String()
	return algorithm[:min(len(algorithm), 32)] + "-" + d.Encoded()[:min(len(d.Encoded()), 64)]
}
