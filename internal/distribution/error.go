package distribution

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// ErrStalled means that the peer neither sent nor took a byte for longer than Config.IdleTimeout.
var ErrStalled = errors.New("connection stalled")

// Error is a request that failed.
type Error struct {
	Host       string
	Repository string
	What       string        // "manifest", "blob", "tag list", …
	Op         string        // method and what, such as "GET blob"
	Status     int           // HTTP status; 0 if there was no answer
	RetryAfter time.Duration // set by the registry and longer than what the retry budget had left
	Err        error
}

func (e *Error) Error() string { return fmt.Sprintf("%s from %s: %v", e.Op, e.Host, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// NotFound reports whether the registry said that the repository, manifest or blob does not exist.
func (e *Error) NotFound() bool { return e.Status == http.StatusNotFound }

// Unauthorized reports whether the registry refused our rights.
func (e *Error) Unauthorized() bool {
	return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
}

// newError describes err, which came instead of an answer or from reading it.
func (r *Repository) newError(method, what string, err error) error {
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	e := &Error{Host: r.host, Repository: r.name, What: what, Op: method + " " + what, Err: trimURL(err)}
	if te, ok := errors.AsType[*transport.Error](err); ok {
		// From the ping or the token server.
		e.Status, e.Err = te.StatusCode, diagnosis(te)
	}
	return e
}

// statusError describes an answer whose status is not one that the caller wanted. It consumes the body.
func (r *Repository) statusError(res *http.Response, method, what string) error {
	err := transport.CheckError(res)
	_ = res.Body.Close()
	e := &Error{Host: r.host, Repository: r.name, What: what, Op: method + " " + what, Status: res.StatusCode, Err: err}
	if te, ok := errors.AsType[*transport.Error](err); ok {
		e.Err = diagnosis(te)
	}
	e.RetryAfter = retryAfter(res.Header, time.Now())
	return e
}

// diagnosis keeps the registry's codes and messages and drops the URL, which may carry signed query parameters, and bodies in
// HTML.
func diagnosis(te *transport.Error) error {
	if len(te.Errors) == 0 {
		return fmt.Errorf("status %d %s", te.StatusCode, http.StatusText(te.StatusCode))
	}
	var errs []error
	for i, d := range te.Errors {
		if i == 3 {
			break
		}
		text := string(d.Code)
		if d.Message != "" {
			text += ": " + d.Message
		}
		if len(text) > 300 {
			text = text[:300] + "…"
		}
		errs = append(errs, fmt.Errorf("status %d %q", te.StatusCode, text))
	}
	return errors.Join(slices.Clip(errs)...)
}

// trimURL drops the method and URL that net/http puts before an error: Error says what was asked of whom, and the URL of a
// redirect may be a signed one.
func trimURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}
