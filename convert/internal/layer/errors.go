package layer

import (
	"errors"
	"fmt"
	"strconv"
)

var (
	// ErrFormat is a layer that is not a tar stream, or a damaged one.
	ErrFormat = errors.New("malformed layer")
	// ErrLimit is what every [LimitError] is.
	ErrLimit = errors.New("limit exceeded")
	// ErrUnsafePath is a path that no file can have, that leads through too many symbolic links, or that would make the
	// root something else than a directory.
	ErrUnsafePath = errors.New("unsafe path")
	// ErrWhiteout is a whiteout that names nothing, or the directory that it is in.
	ErrWhiteout = errors.New("invalid whiteout")
	// ErrHardLink is a hard link to something that is not there or cannot have one.
	ErrHardLink = errors.New("invalid hard link")
)

// EntryError is an entry of a layer that an image cannot have.
type EntryError struct {
	Name string // as in the archive
	Err  error
}

func (e *EntryError) Error() string { return "entry " + quote(e.Name) + ": " + e.Err.Error() }

// Unwrap returns Err.
func (e *EntryError) Unwrap() error { return e.Err }

// quote bounds what a hostile name can do to a line of text.
func quote(name string) string {
	const most = 200
	if len(name) > most {
		return strconv.Quote(name[:most]) + "…"
	}
	return strconv.Quote(name)
}

// LimitError is a layer that is larger than a limit in some way.
type LimitError struct {
	What  string // "entries", "bytes in a path", …
	Limit int64
}

func (e *LimitError) Error() string { return fmt.Sprintf("more than %d %s", e.Limit, e.What) }

// Is makes errors.Is(err, ErrLimit) true.
func (e *LimitError) Is(target error) bool { return target == ErrLimit }

func malformed(err error) error { return fmt.Errorf("%w: %w", ErrFormat, err) }

func malformedf(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrFormat, fmt.Errorf(format, args...))
}
