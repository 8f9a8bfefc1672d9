package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"hpcimg/internal/distribution"
)

var (
	// ErrReference is what every *ReferenceError is.
	ErrReference = errors.New("bad reference")
	// ErrFormat is what every *DocumentError is: a manifest, index, config or archive that breaks its specification.
	ErrFormat = errors.New("malformed image")
	// ErrDigest is what every *DigestError is: content that is not what its descriptor says.
	ErrDigest = errors.New("digest mismatch")
	// ErrLimit is what every *LimitError is.
	ErrLimit = errors.New("limit exceeded")
	// ErrStalled is in the chain of a *TransportError when a registry stopped sending or taking bytes.
	ErrStalled = distribution.ErrStalled
)

// ReferenceError says what is wrong with a reference. It is ErrReference.
type ReferenceError struct {
	Reference string
	Err       error
}

func (e *ReferenceError) Error() string {
	return printable(fmt.Sprintf("image: reference %q: %v", e.Reference, e.Err), 1900)
}

// Unwrap returns ErrReference and the reason.
func (e *ReferenceError) Unwrap() []error { return []error{ErrReference, e.Err} }

// boundError is an error as it leaves the package: its text may hold names from a document, an archive or a registry, and is made
// fit for a terminal and a log.
type boundError struct {
	doing string
	err   error
}

// bound says once, at the package's boundary, what was being done.
func bound(doing string, err error) error { return &boundError{doing: doing, err: err} }

func (e *boundError) Error() string { return printable("image: "+e.doing+": "+e.err.Error(), 1900) }

func (e *boundError) Unwrap() error { return e.err }

// printable is s, shortened and fit for a terminal.
func printable(s string, n int) string { return distribution.Printable(s, n) }

// clip keeps error texts readable when the offending string is long.
func clip(s string, n int) string { return distribution.Clip(s, n) }

// DocumentError is a document that breaks its specification. It is ErrFormat.
type DocumentError struct {
	Document string // "manifest", "index", "config", "layout", "oci-layout", "manifest.json", "archive", "descriptor"
	Field    string // path of the field, such as "layers[2].digest"; empty when the whole document is at fault
	Err      error
}

func (e *DocumentError) Error() string {
	// Both the field and the reason may quote the document.
	reason := printable(e.Err.Error(), 700)
	if e.Field == "" {
		return e.Document + ": " + reason
	}
	return e.Document + ": " + printable(e.Field, 300) + ": " + reason
}

// Unwrap returns ErrFormat and the reason.
func (e *DocumentError) Unwrap() []error { return []error{ErrFormat, e.Err} }

// documentError is the short way to a *DocumentError.
func documentError(document, field, format string, args ...any) error {
	return &DocumentError{Document: document, Field: field, Err: fmt.Errorf(format, args...)}
}

// DigestError is content whose digest or size differs from its descriptor. It is ErrDigest, and io.ErrUnexpectedEOF if the
// content ended early.
type DigestError struct {
	Descriptor Descriptor
	Got        digest.Digest // digest of what was read; empty when there was more than the descriptor's size
	GotSize    int64         // bytes read; Descriptor.Size + 1 when there was more
}

func (e *DigestError) Error() string {
	want := e.Descriptor
	switch {
	case e.GotSize < want.Size:
		return fmt.Sprintf("blob %s ends after %d of %d bytes", want.Digest, e.GotSize, want.Size)
	case e.GotSize > want.Size:
		return fmt.Sprintf("blob %s is longer than %d bytes", want.Digest, want.Size)
	}
	return fmt.Sprintf("blob %s has digest %s", want.Digest, e.Got)
}

// Unwrap returns ErrDigest, and io.ErrUnexpectedEOF for truncated content.
func (e *DigestError) Unwrap() []error {
	if e.GotSize < e.Descriptor.Size {
		return []error{ErrDigest, io.ErrUnexpectedEOF}
	}
	return []error{ErrDigest}
}

// LimitError is a document that is larger than the caller's limit (see [Limits]). It is ErrLimit.
type LimitError struct {
	What  string // "manifest bytes", "layers", …
	Limit int64
}

func (e *LimitError) Error() string { return fmt.Sprintf("more than %d %s", e.Limit, e.What) }

// Unwrap returns ErrLimit.
func (e *LimitError) Unwrap() error { return ErrLimit }

// PlatformError is an image that does not exist for the wanted platform.
type PlatformError struct {
	Want Platform
	Have []Platform // what there is, without duplicates, in the order of the index
}

func (e *PlatformError) Error() string {
	if len(e.Have) == 0 {
		return fmt.Sprintf("no image for %s", platformString(e.Want))
	}
	have := make([]string, 0, len(e.Have))
	for i, p := range e.Have {
		if i == 20 {
			have = append(have, fmt.Sprintf("and %d more", len(e.Have)-i))
			break
		}
		have = append(have, platformString(p))
	}
	return fmt.Sprintf("no image for %s, only for %s", platformString(e.Want), strings.Join(have, ", "))
}

// UnauthorizedError is a registry that refused our credentials, or the lack of them.
type UnauthorizedError struct {
	Host       string
	Repository string
	Err        error
}

func (e *UnauthorizedError) Error() string {
	return printable(fmt.Sprintf("%s does not let us at %s (log in to %[1]s or pass credentials for it; "+
		"some registries answer like this when the repository does not exist): %v", e.Host, e.Repository, e.Err), 1900)
}

// Unwrap returns the registry's answer.
func (e *UnauthorizedError) Unwrap() error { return e.Err }

// TransportError is a request to a registry that failed for another reason than missing content or rights.
type TransportError struct {
	Host       string
	Op         string        // method and what it was for, such as "GET blob"
	Status     int           // HTTP status, 0 when there was no answer
	RetryAfter time.Duration // what the registry asked us to wait; longer than our budget, or we would have
	Err        error
}

func (e *TransportError) Error() string {
	text := fmt.Sprintf("%s from %s: %v", e.Op, e.Host, e.Err)
	if e.RetryAfter > 0 {
		text += fmt.Sprintf(" (try again in %s)", e.RetryAfter)
	}
	return printable(text, 1900)
}

// Unwrap returns the cause.
func (e *TransportError) Unwrap() error { return e.Err }

// transportError turns the wire client's error into ours.
func transportError(err error) error {
	e, ok := errors.AsType[*distribution.Error](err)
	if !ok {
		return err
	}
	if l, ok := errors.AsType[*distribution.LengthError](err); ok {
		return lengthError(e, l)
	}
	switch {
	case e.Unauthorized():
		return &UnauthorizedError{Host: e.Host, Repository: e.Repository, Err: e.Err}
	case e.NotFound():
		return fmt.Errorf("no such %s in %s at %s: %w", e.What, e.Repository, e.Host, fs.ErrNotExist)
	}
	return &TransportError{Host: e.Host, Op: e.Op, Status: e.Status, RetryAfter: e.RetryAfter, Err: e.Err}
}

// lengthError is the answer of a registry whose blob has another size than its descriptor. It never got as far as a digest.
func lengthError(e *distribution.Error, l *distribution.LengthError) error {
	hint := ""
	if l.MediaType == "text/html" {
		hint = " (the answer is an HTML page: is there a proxy or a login page in between?)"
	}
	return fmt.Errorf("%s from %s: %w%s", e.Op, e.Host, &DigestError{
		Descriptor: Descriptor{Digest: l.Digest, Size: l.Want}, GotSize: min(l.Got, l.Want+1),
	}, hint)
}
