package distribution

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	firstIllness = 30 * time.Second
	maxIllness   = 10 * time.Minute
)

// illness is what is remembered of a host that failed: it is asked last until then.
type illness struct {
	until time.Time
	times int
}

// Source is one of the places of a Mirrored.
type Source struct {
	Place
	Tags, Digests bool // what is asked for there
}

// Mirrored is a repository that can be read from several places. They are asked in their order, but those last that have failed a
// moment ago. What they give is unverified as ever.
type Mirrored struct {
	client *Client
	places []mirror
}

type mirror struct {
	*Repository
	tags, digests bool
}

// Mirrored returns the repository that is at all these places. The last one is tried with all patience.
func (c *Client) Mirrored(sources []Source) (*Mirrored, error) {
	m := &Mirrored{client: c}
	for i, s := range sources {
		s.Standby = i < len(sources)-1
		repo, err := c.repositoryAt(s.Place, Pull)
		if err != nil {
			return nil, err
		}
		m.places = append(m.places, mirror{repo, s.Tags, s.Digests})
	}
	return m, nil
}

// Manifest is Repository.Manifest at the first place that has a document with which check is content.
func (m *Mirrored) Manifest(ctx context.Context, ref string, accept []string, limit int64, check func(*Document) error) (*Document, error) {
	var doc *Document
	err := m.try(ctx, strings.Contains(ref, ":"), nil, func(r *Repository) error {
		d, err := r.Manifest(ctx, ref, accept, limit)
		if err == nil {
			err = check(d)
		}
		doc = d
		return err
	})
	if err != nil {
		return nil, err
	}
	return doc, nil
}

// try calls do with the places for tags or for digests, one after the other until one succeeds or skip says that its turn is over,
// and returns the error of the last, with the others' in it.
func (m *Mirrored) try(ctx context.Context, byDigest bool, skip func(*Repository) bool, do func(*Repository) error) error {
	var before []string
	var last error
	for _, r := range m.order(byDigest) {
		if skip != nil && skip(r) {
			continue
		}
		if last != nil {
			before = append(before, fmt.Sprintf("%s: %v", r.host, last))
			m.client.config.Logger.DebugContext(ctx, "next mirror", "host", r.host, "error", last)
		}
		last = do(r)
		if last == nil {
			m.client.recovered(r.host)
			return nil
		}
		if ctx.Err() != nil {
			return last
		}
		if e, ok := errors.AsType[*Error](last); !ok || !e.NotFound() {
			m.client.failed(r.host)
		}
	}
	if last == nil {
		return fmt.Errorf("no place is left to read from")
	}
	return withMirrors(last, before)
}

// withMirrors puts what mirrors said into the error of the last place.
func withMirrors(err error, before []string) error {
	e, ok := errors.AsType[*Error](err)
	if len(before) == 0 || !ok {
		return err
	}
	again := *e
	again.Err = fmt.Errorf("%w (after %s)", e.Err, Clip(strings.Join(before, "; "), 600))
	return &again
}

// order returns the places, those that are well first.
func (m *Mirrored) order(byDigest bool) []*Repository {
	var well, ill []*Repository
	for _, p := range m.places {
		switch {
		case byDigest && !p.digests || !byDigest && !p.tags:
		case m.client.isIll(p.host):
			ill = append(ill, p.Repository)
		default:
			well = append(well, p.Repository)
		}
	}
	return slices.Concat(well, ill)
}

func (c *Client) isIll(host string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.ill[host].until)
}

func (c *Client) failed(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.ill[host]
	i.until = time.Now().Add(min(firstIllness<<min(i.times, 10), maxIllness))
	i.times++
	if _, known := c.ill[host]; known || len(c.ill) < maxSessions {
		c.ill[host] = i
	}
}

func (c *Client) recovered(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.ill, host)
}

// BlobFrom is Repository.BlobFrom from the first place that has the blob. When a place fails for good in the middle, the next one goes
// on.
func (m *Mirrored) BlobFrom(ctx context.Context, d digest.Digest, size, off int64) (io.ReadCloser, error) {
	if len(m.places) == 1 {
		return m.places[0].BlobFrom(ctx, d, size, off)
	}
	b := &mirroredBlob{m: m, ctx: ctx, digest: d, size: size, off: off, tried: map[*Repository]bool{}}
	if err := b.next(nil); err != nil {
		return nil, err
	}
	return b, nil
}

// mirroredBlob reads a blob from one place after the other.
type mirroredBlob struct {
	m      *Mirrored
	ctx    context.Context //nolint:containedctx // of BlobFrom, for the requests that Read makes
	digest digest.Digest
	size   int64
	off    int64
	tried  map[*Repository]bool
	from   *Repository
	body   io.ReadCloser
}

// next opens the blob at a place that has not been tried. Err is why the last one will not do.
func (b *mirroredBlob) next(err error) error {
	if b.body != nil {
		_ = b.body.Close()
		b.m.client.failed(b.from.host)
	}
	untried := func(r *Repository) bool { return b.tried[r] }
	if b.body != nil && !slices.ContainsFunc(b.m.order(true), func(r *Repository) bool { return !b.tried[r] }) {
		return err
	}
	return b.m.try(b.ctx, true, untried, func(r *Repository) error {
		b.tried[r] = true
		body, err := r.BlobFrom(b.ctx, b.digest, b.size, b.off)
		if err == nil {
			b.from, b.body = r, body
		}
		return err
	})
}

func (b *mirroredBlob) Read(p []byte) (int, error) {
	for {
		n, err := b.body.Read(p)
		b.off += int64(n)
		if err == nil || err == io.EOF || n > 0 || b.ctx.Err() != nil {
			return n, err
		}
		if err := b.next(err); err != nil {
			return 0, err
		}
	}
}

func (b *mirroredBlob) Close() error { return b.body.Close() }
