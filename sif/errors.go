package sif

import (
	"errors"
	"fmt"
	"io/fs"
)

var (
	// ErrFormat is matched by every error about a file that is not a SIF, or a damaged one.
	ErrFormat = errors.New("sif: not a valid SIF file")

	// ErrLimit is matched by every *LimitError.
	ErrLimit = errors.New("sif: limit exceeded")

	// ErrArch is matched by the error about an architecture that SIF has no code for.
	ErrArch = errors.New("sif: unknown architecture")
)

// FormatError says which structure of a file is wrong, and where. errors.Is(err, ErrFormat) holds.
type FormatError struct {
	Structure string // "global header", "descriptor 3", "data object 2" ...
	Offset    int64  // of the structure in the file
	Err       error  // what is wrong with it
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("sif: %s at %#x: %v", e.Structure, e.Offset, e.Err)
}

// Is reports whether target is ErrFormat.
func (e *FormatError) Is(target error) bool { return target == ErrFormat }

// Unwrap returns Err.
func (e *FormatError) Unwrap() error { return e.Err }

// LimitError says that a valid file or input asks for more than this package grants. errors.Is(err, ErrLimit) holds.
type LimitError struct {
	What  string
	Limit int64
}

func (e *LimitError) Error() string { return fmt.Sprintf("sif: %s exceeds %d", e.What, e.Limit) }

// Is reports whether target is ErrLimit.
func (e *LimitError) Is(target error) bool { return target == ErrLimit }

// PrimaryError says why a file has no primary partition that can be used. Which errors it is:
//
//	no such object at all           errors.Is(err, fs.ErrNotExist)
//	several                         errors.Is(err, ErrFormat)
//	encrypted, ext3, other          errors.Is(err, errors.ErrUnsupported); FS tells which
type PrimaryError struct {
	// ID is the object that was looked at; 0 if there is none.
	ID uint32
	// FS is its file system; 0 if there is none.
	FS FSType
	// Err is fs.ErrNotExist, ErrFormat or errors.ErrUnsupported, wrapped in a text that says more.
	Err error
}

func (e *PrimaryError) Error() string { return fmt.Sprintf("sif: primary partition: %v", e.Err) }

// Unwrap returns Err.
func (e *PrimaryError) Unwrap() error { return e.Err }

func notFound(what string) error { return fmt.Errorf("sif: %s: %w", what, fs.ErrNotExist) }
