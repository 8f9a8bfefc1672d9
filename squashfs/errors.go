package squashfs

import (
	"errors"
	"fmt"
)

// ErrFormat is matched by every error that says that an image is not a
// squashfs, or is damaged. [FormatError] carries the place.
var ErrFormat = errors.New("squashfs: not a valid image")

// ErrLimit is matched by every error that says that a limit of this package
// or of the caller was exceeded. [LimitError] names it.
var ErrLimit = errors.New("squashfs: limit exceeded")

// FormatError says what is wrong with an image and where.
type FormatError struct {
	Structure string // in the format's terms: "superblock", "inode", "data block"
	Offset    int64  // in the image, of the structure or of the metadata block that holds it
	Err       error
}

// Error implements error.
func (e *FormatError) Error() string {
	return fmt.Sprintf("squashfs: %s at %#x: %v", e.Structure, e.Offset, e.Err)
}

// Unwrap returns Err.
func (e *FormatError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrFormat) true.
func (e *FormatError) Is(target error) bool { return target == ErrFormat }

// LimitError says that something in an image exceeds what this package or the
// caller's options allow. The image may be valid.
type LimitError struct {
	What  string
	Limit int64
}

// Error implements error.
func (e *LimitError) Error() string {
	return fmt.Sprintf("squashfs: more than %d %s", e.Limit, e.What)
}

// Is makes errors.Is(err, ErrLimit) true.
func (e *LimitError) Is(target error) bool { return target == ErrLimit }

func formatError(structure string, offset int64, err error) error {
	return &FormatError{Structure: structure, Offset: offset, Err: err}
}

func formatErrorf(structure string, offset int64, format string, args ...any) error {
	return &FormatError{Structure: structure, Offset: offset, Err: fmt.Errorf(format, args...)}
}
