package distribution

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

const (
	maxTagPage  = 4 << 20
	maxTagPages = 1000
	maxTags     = 1 << 20
	maxTagBytes = 16 << 20
	maxTag      = 128
)

// Tags lists the tags of the repository, page by page.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	next, err := url.Parse(r.base + "/tags/list?n=1000")
	if err != nil {
		return nil, r.newError(http.MethodGet, "tag list", err)
	}
	var tags []string
	size, seen := 0, map[string]bool{}
	for next != nil {
		if seen[next.RequestURI()] || len(seen) == maxTagPages {
			return nil, r.newError(http.MethodGet, "tag list", fmt.Errorf("the pages do not end"))
		}
		seen[next.RequestURI()] = true
		page, link, err := r.tagPage(ctx, next)
		if err != nil {
			return nil, err
		}
		for _, tag := range page {
			if !isTag(tag) {
				return nil, r.newError(http.MethodGet, "tag list", fmt.Errorf("%q is not a tag", Clip(tag, 100)))
			}
			size += len(tag)
		}
		if tags = append(tags, page...); len(tags) > maxTags || size > maxTagBytes {
			return nil, r.newError(http.MethodGet, "tag list", fmt.Errorf("there are more than %d tags, or %d bytes of them", maxTags, maxTagBytes))
		}
		next = link
	}
	return tags, nil
}

func (r *Repository) tagPage(ctx context.Context, u *url.URL) ([]string, *url.URL, error) {
	res, raw, err := r.fetch(ctx, u.String(), http.Header{}, "tag list", maxTagPage)
	if err != nil {
		return nil, nil, err
	}
	var page struct {
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(raw, &page); err != nil {
		return nil, nil, r.newError(http.MethodGet, "tag list", err)
	}
	return page.Tags, nextPage(u, res.Header.Get("Link")), nil
}

// isTag follows the grammar of the distribution specification: tags end up on terminals and in references.
func isTag(s string) bool {
	return s != "" && len(s) <= maxTag && s[0] != '.' && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_.-", r)
	})
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
	next.Scheme, next.User = u.Scheme, nil
	return next
}
