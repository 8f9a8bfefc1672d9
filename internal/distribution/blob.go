package distribution

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// maxOdd is how many answers in a row that make no sense a blob survives: a proxy may have a bad moment.
const maxOdd = 3

// errOdd is in what a registry should not answer.
var errOdd = errors.New("unexpected answer")

// Blob opens a blob of the given size, or of an unknown one if size is negative. Its bytes are unverified. Should the transfer break,
// reading goes on where it stopped, with a request for the rest; bytes that did arrive are asked for again only of registries that
// do not know ranges. Reading fails with *Error, and with *LengthError in it if the registry's blob has another size.
//
// The context is for the reading as well. Close may be called while a Read is waiting.
func (r *Repository) Blob(ctx context.Context, d digest.Digest, size int64) (io.ReadCloser, error) {
	return r.BlobFrom(ctx, d, size, 0)
}

// BlobFrom is Blob from byte off on, which is not beyond the end: for whoever has what stands before it.
func (r *Repository) BlobFrom(ctx context.Context, d digest.Digest, size, off int64) (io.ReadCloser, error) {
	if n := r.session.config.Ranges; n > 1 && size-off >= rangesFrom {
		return r.blobInRanges(ctx, d, size, off, n)
	}
	b, err := r.blobRange(ctx, d, size, off, size)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// blobRange is BlobFrom up to byte end, or to wherever the blob ends if that is negative.
func (r *Repository) blobRange(ctx context.Context, d digest.Digest, size, off, end int64) (*blob, error) {
	ctx, cancel := context.WithCancel(withoutRetries(ctx))
	b := &blob{repo: r, ctx: ctx, cancel: cancel, digest: d, size: size, first: off, off: off, end: end, patience: newPatience(r.session.config)}
	b.patience.mark = off
	if err := b.open(); err != nil {
		cancel()
		return nil, err
	}
	return b, nil
}

// blob is a blob being read by one request after the other.
type blob struct {
	repo     *Repository
	ctx      context.Context //nolint:containedctx // of Blob, for the requests that Read makes
	cancel   context.CancelFunc
	digest   digest.Digest
	size     int64
	patience patience

	first     int64  // byte that the caller wanted to begin with
	off       int64  // where it is now
	end       int64  // where the caller wants to end, if that is before the blob does
	unranged  bool   // ranges do not work here, so that the blob is read on to its end
	start     int64  // where the present answer began
	stop      int64  // where it ends by its own account; -1 if it did not say
	etag      string // strong, of the answer that began the blob
	odd       int    // odd answers since the last good one
	noRange   bool   // ranges do not work here
	noIfRange bool
	broken    *Error        // why the last body ended
	lost      time.Duration // how long its end was waited for
	err       error         // of every Read from here on

	mu     sync.Mutex
	body   io.ReadCloser // nil between requests
	closed bool
}

func (b *blob) Read(p []byte) (int, error) {
	for b.err == nil && len(p) > 0 {
		if b.body == nil {
			if b.err = b.resume(); b.err != nil {
				break
			}
		}
		started := time.Now()
		if b.bounded() {
			p = p[:min(int64(len(p)), b.end-b.off)]
		}
		n, err := b.body.Read(p)
		b.off += int64(n)
		if b.bounded() && b.off == b.end {
			b.err = io.EOF
			return n, io.EOF
		}
		b.patience.progress(b.off)
		switch {
		case err == nil:
			return n, nil
		case b.complete(err):
			b.err = io.EOF
			return n, io.EOF
		case err == io.EOF:
			err = io.ErrUnexpectedEOF
		}
		b.broken, b.lost = b.failure(err), time.Since(started)
		b.setBody(nil)
		if n > 0 {
			return n, nil
		}
	}
	return 0, b.err
}

// bounded reports whether reading is to stop before the blob ends.
func (b *blob) bounded() bool { return b.end >= 0 && b.end < b.size && !b.unranged }

// complete reports whether the blob is there, given that its body ended with err. If the size is known nothing else counts: what
// comes behind the last byte, or does not, changes no digest.
func (b *blob) complete(err error) bool {
	if b.size >= 0 {
		return b.off >= b.size
	}
	return err == io.EOF
}

// resume opens a new body after one that broke.
func (b *blob) resume() error {
	if b.off == b.stop && b.off-b.start >= progressStep {
		return b.open() // nothing broke: the registry gives blobs in large pieces
	}
	if err := b.patience.wait(b.ctx, b.broken, b.lost); err != nil {
		return err
	}
	return b.open()
}

// open makes requests until one is answered with the rest of the blob.
func (b *blob) open() error {
	for {
		started := time.Now()
		body, err := b.request()
		if err == nil {
			b.odd, b.start = 0, b.off
			if !b.setBody(body) {
				return b.failure(context.Canceled)
			}
			return nil
		}
		if !b.worthwhile(err) {
			return err
		}
		if err := b.patience.wait(b.ctx, err, time.Since(started)); err != nil {
			return err
		}
	}
}

// worthwhile reports whether the next request may do better. Once there were bytes of the blob, the registry is known to have it
// and to give it to us: then nearly everything passes.
func (b *blob) worthwhile(err *Error) bool {
	begun := b.off > b.first
	switch {
	case b.ctx.Err() != nil:
		return false
	case errors.Is(err, errOdd),
		(begun || err.redirected) && (err.Status == http.StatusForbidden || err.Status == http.StatusNotFound):
		// 403: a signed URL that has expired; the registry makes a new one.
		b.odd++
		return b.odd < maxOdd
	case err.Status != 0:
		return transientStatus(err.Status)
	case begun:
		return !hopeless(err.Err)
	}
	return transient(err.Err)
}

// setBody changes the body, unless the blob was closed.
func (b *blob) setBody(body io.ReadCloser) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.body != nil {
		_ = b.body.Close()
	}
	b.body = body
	if b.closed && body != nil {
		_ = body.Close()
		b.body = nil
		return false
	}
	return true
}

func (b *blob) Close() error {
	b.cancel()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	if b.body != nil {
		return b.body.Close()
	}
	return nil
}

// failure describes err with the place in the blob.
func (b *blob) failure(err error) *Error {
	e := b.repo.newError(http.MethodGet, "blob", err)
	if b.off > b.first && b.ctx.Err() == nil {
		of := ""
		if b.size >= 0 {
			of = fmt.Sprintf(" of %d", b.size)
		}
		e.Err = fmt.Errorf("after %d%s bytes: %w", b.off, of, e.Err)
	}
	return e
}

// request asks for the rest of the blob and returns a body that stands at its first byte.
func (b *blob) request() (io.ReadCloser, *Error) {
	req, err := http.NewRequestWithContext(b.ctx, http.MethodGet, b.repo.base+"/blobs/"+b.digest.String(), nil)
	if err != nil {
		return nil, b.failure(err)
	}
	ranged := (b.off > 0 || b.bounded()) && !b.noRange
	if ranged {
		to := ""
		if b.bounded() {
			to = strconv.FormatInt(b.end-1, 10)
		}
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%s", b.off, to))
		if b.etag != "" && !b.noIfRange {
			req.Header.Set("If-Range", b.etag)
		}
	}
	res, err := b.repo.do(req, "blob", http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	if err != nil {
		return nil, b.failure(err)
	}
	body, again, failed := b.accept(req, res, ranged)
	if again {
		_ = res.Body.Close()
		return b.request()
	}
	if failed != nil {
		_ = res.Body.Close()
		return nil, failed
	}
	return body, nil
}

// accept checks an answer. Again means to ask once more, more modestly.
func (b *blob) accept(req *http.Request, res *http.Response, ranged bool) (body io.ReadCloser, again bool, failed *Error) {
	switch {
	case res.StatusCode == http.StatusPartialContent && ranged:
		return res.Body, false, b.part(res)
	case res.StatusCode == http.StatusRequestedRangeNotSatisfiable && ranged:
		// There is a byte at off, or the registry has another blob; a request without a range will show.
		b.noRange = true
		return nil, true, nil
	case res.StatusCode != http.StatusOK:
		failed = b.oddity("status %d to a request without a range", res.StatusCode)
		if res.StatusCode != http.StatusPartialContent {
			failed.Status = res.StatusCode
		}
		return nil, false, failed
	case req.Header.Get("If-Range") != "":
		// The validator changed: registries of several machines differ in it. The digest says what may be joined.
		b.noIfRange = true
		return nil, true, nil
	}
	return res.Body, false, b.whole(res)
}

// whole checks an answer with the blob from its beginning, and reads over what was passed on already.
func (b *blob) whole(res *http.Response) *Error {
	if b.size >= 0 && res.ContentLength >= 0 && res.ContentLength != b.size {
		return b.failure(fmt.Errorf("%w: %w", errOdd, &LengthError{Digest: b.digest, Want: b.size, Got: res.ContentLength, MediaType: mediaType(res)}))
	}
	b.stop = res.ContentLength
	if b.size < 0 {
		b.size = res.ContentLength
	}
	b.unranged = true
	if b.off == 0 {
		b.etag = res.Header.Get("ETag")
		if strings.HasPrefix(b.etag, "W/") || len(b.etag) > 1024 {
			b.etag = ""
		}
		return nil
	}
	b.repo.session.config.Logger.DebugContext(b.ctx, "registry sent a blob from its beginning", "host", b.repo.host, "digest", b.digest, "offset", b.off)
	if n, err := io.CopyN(io.Discard, res.Body, b.off); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return b.failure(fmt.Errorf("%w at byte %d of the second time", err, n))
	}
	return nil
}

// part checks an answer with a part of the blob.
func (b *blob) part(res *http.Response) *Error {
	value := res.Header.Get("Content-Range")
	first, last, total, ok := parseContentRange(value)
	switch {
	case !ok || first != b.off || last < first || (total >= 0 && last >= total) ||
		(res.ContentLength >= 0 && res.ContentLength != last-first+1):
		return b.oddity("Content-Range %q for the rest from byte %d", Clip(value, 80), b.off)
	case b.size >= 0 && total >= 0 && total != b.size:
		return b.failure(fmt.Errorf("%w: %w", errOdd, &LengthError{Digest: b.digest, Want: b.size, Got: total, MediaType: mediaType(res)}))
	case b.size >= 0 && last >= b.size:
		return b.oddity("Content-Range %q of %d bytes", Clip(value, 80), b.size)
	}
	b.stop = last + 1
	if b.size < 0 {
		b.size = total
	}
	return nil
}

func (b *blob) oddity(format string, args ...any) *Error {
	return b.failure(fmt.Errorf("%w: "+format, append([]any{errOdd}, args...)...))
}

// parseContentRange reads "bytes first-last/total"; total is -1 for *.
func parseContentRange(s string) (first, last, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, all, ok2 := strings.Cut(s, "/")
	from, to, ok3 := strings.Cut(span, "-")
	first, err1 := parseOffset(from)
	last, err2 := parseOffset(to)
	total, err3 := int64(-1), error(nil)
	if all != "*" {
		total, err3 = parseOffset(all)
	}
	return first, last, total, ok && ok2 && ok3 && err1 == nil && err2 == nil && err3 == nil
}

func parseOffset(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err
}
