package distribution

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/opencontainers/go-digest"
)

var (
	// ErrStalled means that the peer neither sent nor took a byte for longer than Config.IdleTimeout, or fewer than Config.MinRate
	// asks for.
	ErrStalled = errors.New("connection stalled")
	// ErrTooLong means that a document is longer than the caller's limit.
	ErrTooLong = errors.New("document is too long")

	// errRefused is in what no repetition makes better: we do not want to.
	errRefused = errors.New("refused")
)

// LengthError is a blob that the registry says to be of another length than the caller.
type LengthError struct {
	Digest    digest.Digest
	Want, Got int64
	MediaType string // of the answer; an HTML page tells of a proxy or a login page in between
}

func (e *LengthError) Error() string {
	text := fmt.Sprintf("the answer has %d bytes, blob %s has %d", e.Got, e.Digest, e.Want)
	if e.MediaType == "text/html" {
		text += " (it is an HTML page: is there a proxy or a login page in between?)"
	}
	return text
}

// Error is a request that failed.
type Error struct {
	Host       string
	Repository string
	What       string        // "manifest", "blob", "tag list", …
	Op         string        // method and what, such as "GET blob"
	Status     int           // HTTP status; 0 if there was no answer
	RetryAfter time.Duration // set by the registry and longer than what the retry budget had left
	Err        error

	aside      bool // about the ping or the token server, not about the thing
	redirected bool // the answer of a host that a redirect led to
}

func (e *Error) Error() string {
	return Printable(fmt.Sprintf("%s from %s: %v", e.Op, e.Host, e.Err), 1500)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// NotFound reports whether the registry said that the repository, manifest or blob does not exist.
func (e *Error) NotFound() bool { return e.Status == http.StatusNotFound && !e.aside }

// Unauthorized reports whether the registry refused our rights.
func (e *Error) Unauthorized() bool {
	return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
}

// newError describes err, which came instead of an answer or from reading it.
func (r *Repository) newError(method, what string, err error) *Error {
	e := &Error{Host: r.host, Repository: r.name, What: what, Op: method + " " + what, Err: trimURL(err)}
	if inner, ok := errors.AsType[*Error](err); ok {
		if inner.Host != "" {
			return inner
		}
		e.Status, e.RetryAfter, e.Err, e.aside = inner.Status, inner.RetryAfter, inner.Err, true
	}
	return e
}

// statusError describes an answer whose status is not one that the caller wanted. It consumes the body.
func (r *Repository) statusError(res *http.Response, method, what string) *Error {
	e := answerError(res)
	e.Host, e.Repository, e.What, e.Op = r.host, r.name, what, method+" "+what
	e.redirected = res.Request != nil && res.Request.URL.Host != r.session.api
	discard(res.Body)
	return e
}

const maxErrorBody = 64 << 10

// answerError says what is in an answer that is an error: codes and messages of a registry, shortened and quoted, but no pages of
// HTML, and no URL, which may be a signed one.
func answerError(res *http.Response) *Error {
	e := &Error{Status: res.StatusCode, RetryAfter: retryAfter(res.Header, time.Now())}
	status := fmt.Sprintf("status %d %s", res.StatusCode, http.StatusText(res.StatusCode))
	raw, _ := io.ReadAll(io.LimitReader(res.Body, maxErrorBody))
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(raw, &body) != nil || len(body.Errors) == 0 {
		e.Err = errors.New(status)
		return e
	}
	var errs []error
	for i, d := range body.Errors {
		if i == 3 {
			break
		}
		text := d.Code
		if d.Message != "" {
			text += ": " + d.Message
		}
		errs = append(errs, fmt.Errorf("status %d %q", res.StatusCode, Clip(text, 300)))
	}
	e.Err = errors.Join(errs...)
	return e
}

// trimURL drops the method and URL that net/http puts before an error: Error says what was asked of whom, and the URL of a
// redirect may be a signed one.
func trimURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}
