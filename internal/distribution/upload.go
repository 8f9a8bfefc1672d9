package distribution

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	opPutBlob = "PUT blob"

	// resumedChunk is the size of chunks when a registry or a proxy leaves us no other way. One of each upload is in memory.
	resumedChunk = 16 << 20
	// maxMinChunk is the largest that a registry may want chunks to be.
	maxMinChunk = 128 << 20
	// maxSetbacks is how often an upload may lose what it had without an error.
	maxSetbacks = 3
)

// UploadOptions says how a blob is uploaded. Nil and the zero value mean the same.
type UploadOptions struct {
	// ChunkSize makes uploads chunked, of so many bytes at a time. 0 sends a blob in one request, unless that does not work.
	ChunkSize int64
	// MountFrom is a repository of the same registry that may have the blob.
	MountFrom string
}

// PushBlob uploads a blob of known size, and reports whether the registry took it from another of its repositories instead. Open is
// called for each attempt, and again after a redirect or when a token has expired. An upload that breaks is continued where the
// registry says that it stands, in chunks, or begun again if it does not say.
func (r *Repository) PushBlob(ctx context.Context, d digest.Digest, size int64, open func() (io.ReadCloser, error), opts *UploadOptions) (mounted bool, err error) {
	u := &upload{repo: r, digest: d, size: size, open: open}
	if opts != nil {
		u.wanted, u.from = max(opts.ChunkSize, 0), opts.MountFrom
		u.chunk = u.wanted
	}
	defer u.closeSource()
	ctx = withoutRetries(ctx)
	p := newPatience(r.session.config)
	for {
		err := u.attempt(ctx)
		if err == nil {
			return u.mounted, nil
		}
		p.progress(u.off)
		if !u.again(err) {
			return false, err
		}
		var spent time.Duration
		if errors.Is(err, ErrStalled) {
			spent = r.session.config.IdleTimeout
		}
		if err := p.wait(ctx, err, spent); err != nil {
			return false, err
		}
	}
}

// upload is a blob on its way to a registry.
type upload struct {
	repo   *Repository
	digest digest.Digest
	size   int64
	open   func() (io.ReadCloser, error)
	wanted int64 // size of chunks, 0 for all at once
	chunk  int64 // the same, or how to go on after one request did not do
	from   string

	target   *url.URL // where the upload goes on; nil before it has begun, and when it has to begin again
	off      int64    // what the registry has of it
	lost     bool     // nobody knows what the registry has
	setbacks int
	mounted  bool

	source io.ReadCloser // what has been opened, at byte at
	at     int64
}

// again reports whether another attempt makes sense after err, and with what.
func (u *upload) again(err *Error) bool {
	u.lost = true
	switch {
	case err.Status == http.StatusRequestEntityTooLarge && u.chunk == 0 && err.Op == opPutBlob:
		// A proxy does not let so large a body through.
		u.wanted, u.chunk, u.target = resumedChunk, resumedChunk, nil
		return true
	case err.Status == http.StatusRequestedRangeNotSatisfiable && u.chunk > 0, err.Status == http.StatusNotFound && u.target != nil:
		// 404: the registry does not know of the upload any more.
		u.setbacks++
		if err.Status == http.StatusNotFound {
			u.target = nil
		}
		return u.setbacks <= maxSetbacks
	}
	return passing(err)
}

// attempt brings the upload as far as it goes.
func (u *upload) attempt(ctx context.Context) *Error {
	if u.target != nil && u.lost && !u.ask(ctx) {
		u.target, u.chunk = nil, u.wanted
	}
	u.lost = false
	if u.target == nil {
		u.off = 0
		if err := u.begin(ctx); err != nil || u.mounted {
			return err
		}
	}
	if u.chunk == 0 {
		return u.putAll(ctx)
	}
	for u.off < u.size {
		if err := u.patch(ctx); err != nil {
			return err
		}
	}
	return u.put(ctx, http.NoBody, 0, nil)
}

// begin starts an upload, or has the blob mounted.
func (u *upload) begin(ctx context.Context) *Error {
	query := ""
	if u.from != "" {
		query = "?" + url.Values{"mount": {u.digest.String()}, "from": {u.from}}.Encode()
	}
	u.from = "" // asked once
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.repo.base+"/blobs/uploads/"+query, http.NoBody)
	if err != nil {
		return u.repo.newError(http.MethodPost, "upload", err)
	}
	res, err := u.repo.do(req, "upload", http.StatusAccepted, http.StatusCreated)
	if err != nil {
		e := u.repo.newError(http.MethodPost, "upload", err)
		if query != "" && (e.Unauthorized() || e.NotFound()) {
			return u.begin(ctx) // we may write here, but not read there
		}
		return e
	}
	discard(res.Body)
	if res.StatusCode == http.StatusCreated {
		u.mounted = query != ""
		if !u.mounted {
			return u.repo.newError(http.MethodPost, "upload", fmt.Errorf("status 201 to the start of an upload"))
		}
		return nil
	}
	u.wantChunks(res.Header.Get("OCI-Chunk-Min-Length"))
	return u.follow(res, http.MethodPost)
}

// wantChunks hears how large chunks have to be at least.
func (u *upload) wantChunks(header string) {
	least, err := strconv.ParseInt(header, 10, 64)
	if err == nil && least > 0 && least <= maxMinChunk && u.wanted > 0 {
		u.wanted = max(u.wanted, least)
		u.chunk = u.wanted
	}
}

// follow takes the place from an answer where the upload goes on. Credentials follow it only if it stays on the registry's host.
func (u *upload) follow(res *http.Response, method string) *Error {
	fail := func(err error) *Error { return u.repo.newError(method, "upload", err) }
	location := res.Header.Get("Location")
	if location == "" {
		return fail(fmt.Errorf("no Location to upload to"))
	}
	asked := res.Request.URL
	next, err := asked.Parse(location)
	if err != nil {
		return fail(fmt.Errorf("no usable Location to upload to"))
	}
	if next.Host == asked.Host {
		// A registry behind a proxy that adds TLS does not know of it.
		next.Scheme = asked.Scheme
	}
	if next.Scheme != "https" && asked.Scheme == "https" {
		return fail(fmt.Errorf("%w to upload from https to %s", errRefused, Printable(next.Scheme, 20)))
	}
	if _, err := url.ParseQuery(next.RawQuery); err != nil {
		return fail(fmt.Errorf("no usable Location to upload to"))
	}
	next.User = nil
	u.target = next
	return nil
}

// putAll sends the whole blob.
func (u *upload) putAll(ctx context.Context) *Error {
	if u.size == 0 {
		return u.put(ctx, http.NoBody, 0, nil)
	}
	return u.put(ctx, &lazyBody{open: u.open}, u.size, u.open)
}

// put ends the upload, with what is left of the blob.
func (u *upload) put(ctx context.Context, body io.Reader, size int64, again func() (io.ReadCloser, error)) *Error {
	target := *u.target
	query := target.Query()
	query.Set("digest", u.digest.String())
	target.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, target.String(), body)
	if err != nil {
		return u.repo.newError(http.MethodPut, "blob", err)
	}
	req.ContentLength, req.GetBody = size, again
	req.Header.Set("Content-Type", "application/octet-stream")
	res, err := u.repo.do(req, "blob", http.StatusCreated, http.StatusAccepted, http.StatusNoContent)
	if err != nil {
		e := u.repo.newError(http.MethodPut, "blob", err)
		if u.chunk == 0 && u.size > progressStep && e.Status == 0 {
			u.chunk = resumedChunk // to go on where it broke, if the registry can say where that is
		}
		return e
	}
	discard(res.Body)
	return nil
}

// patch sends the next chunk.
func (u *upload) patch(ctx context.Context) *Error {
	data, err := u.read(u.off, min(u.chunk, u.size-u.off))
	if err != nil {
		return u.repo.newError(http.MethodPatch, "blob", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPatch, u.target.String(), bytes.NewReader(data))
	if err != nil {
		return u.repo.newError(http.MethodPatch, "blob", err)
	}
	last := u.off + int64(len(data)) - 1
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Content-Range", fmt.Sprintf("%d-%d", u.off, last))
	res, err := u.repo.do(req, "blob", http.StatusAccepted, http.StatusCreated, http.StatusNoContent)
	if err != nil {
		return u.repo.newError(http.MethodPatch, "blob", err)
	}
	discard(res.Body)
	u.off = last + 1
	if got, ok := uploaded(res.Header.Get("Range")); ok && got != u.off {
		u.setBack(got)
	}
	if u.setbacks > maxSetbacks {
		return u.repo.newError(http.MethodPatch, "blob", fmt.Errorf("%w: the registry keeps less than it is sent", errOdd))
	}
	return u.follow(res, http.MethodPatch)
}

// setBack goes on from what a registry says that it has, if that can be.
func (u *upload) setBack(got int64) {
	if got < 0 || got > u.size {
		got = 0
		u.target = nil
	}
	if got < u.off {
		u.setbacks++
	}
	u.off = got
}

// ask asks how far the upload is and reports whether it can be continued.
func (u *upload) ask(ctx context.Context) bool {
	if u.chunk == 0 {
		return false
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.target.String(), http.NoBody)
	if err != nil {
		return false
	}
	res, err := u.repo.do(req, "upload", http.StatusNoContent, http.StatusOK, http.StatusAccepted)
	if err != nil {
		return false
	}
	discard(res.Body)
	got, ok := uploaded(res.Header.Get("Range"))
	if !ok || got > u.size {
		return false
	}
	if res.Header.Get("Location") != "" && u.follow(res, http.MethodGet) != nil {
		return false
	}
	u.off = got
	return true
}

// uploaded reads the Range header of an upload, 0-LAST, and returns how many bytes there are. Registries write 0-0 for both none and one.
func uploaded(header string) (int64, bool) {
	from, to, ok := strings.Cut(strings.TrimPrefix(header, "bytes="), "-")
	last, err := parseOffset(to)
	if !ok || from != "0" || err != nil || last == 1<<63-1 {
		return 0, false
	}
	if last == 0 {
		return 0, true
	}
	return last + 1, true
}

// read reads n bytes of the blob from byte off on. The source goes on from where it is, or is opened again. At the end of the blob it
// has to end too: only then has it said that its bytes are right.
func (u *upload) read(off, n int64) ([]byte, error) {
	if u.source == nil || u.at > off {
		u.closeSource()
		source, err := u.open()
		if err != nil {
			return nil, err
		}
		u.source, u.at = source, 0
	}
	skipped, err := io.CopyN(io.Discard, u.source, off-u.at)
	u.at += skipped
	if err != nil {
		return nil, unexpected(err)
	}
	data := make([]byte, n)
	got, err := io.ReadFull(u.source, data)
	u.at += int64(got)
	if err != nil {
		return nil, unexpected(err)
	}
	if u.at == u.size {
		if more, err := io.ReadFull(u.source, make([]byte, 1)); more > 0 {
			return nil, fmt.Errorf("%w: the blob has more than %d bytes", errRefused, u.size)
		} else if err != io.EOF {
			return nil, err
		}
	}
	return data, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (u *upload) closeSource() {
	if u.source != nil {
		_ = u.source.Close()
		u.source = nil
	}
}
