package cache

import (
	"errors"
	"fmt"
	"io/fs"
)

// The errors of this package. A miss is none of them: it is fs.ErrNotExist.
var (
	// ErrUntrusted is a directory in which somebody else could plant entries; see UntrustedError.
	ErrUntrusted = errors.New("cache: not trusted")
	// ErrCorrupt is an entry whose contents are not what they should be; see CorruptError.
	ErrCorrupt = errors.New("cache: corrupt")
	// ErrLimit is something that is larger than this package stores; see LimitError.
	ErrLimit = errors.New("cache: limit exceeded")
)

// UntrustedError is a directory that belongs to a user who is not trusted, or that others may write to.
type UntrustedError struct {
	Path  string
	Owner uint32
	Mode  fs.FileMode
}

func (e *UntrustedError) Error() string {
	if e.Mode.Perm()&writableByOthers != 0 {
		return fmt.Sprintf("cache: %s may be written to by others (mode %04o), who could plant images: chmod go-w it, or use another directory",
			e.Path, e.Mode.Perm())
	}
	return fmt.Sprintf("cache: %s belongs to user %d, who could plant images: use another directory, or declare that user an owner who is trusted",
		e.Path, e.Owner)
}

// Is makes errors.Is(err, ErrUntrusted) true.
func (e *UntrustedError) Is(target error) bool { return target == ErrUntrusted }

// CorruptError is an entry whose contents are not what they should be. By the time that it is returned, the
// entry is gone from the own tier.
type CorruptError struct {
	Kind   Kind
	Key    string
	Tier   string // directory of the cache
	Offset int64  // where in the data, or -1: nowhere in particular
	Got    string // key that the contents of a blob should have, from OpenBlob
	Err    error
}

func (e *CorruptError) Error() string {
	at := ""
	if e.Offset >= 0 {
		at = fmt.Sprintf(" at %#x", e.Offset)
	}
	return fmt.Sprintf("cache: %s %s in %s is damaged%s: %v", e.Kind, e.Key, e.Tier, at, e.Err)
}

// Unwrap returns the cause.
func (e *CorruptError) Unwrap() error { return e.Err }

// Mismatch returns the key that the contents should have, if they were a blob read to its end.
func (e *CorruptError) Mismatch() string { return e.Got }

// Is makes errors.Is(err, ErrCorrupt) true.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// LimitError is something that is larger than this package stores.
type LimitError struct {
	What  string
	Limit int64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("cache: %s is larger than %d bytes", e.What, e.Limit)
}

// Is makes errors.Is(err, ErrLimit) true.
func (e *LimitError) Is(target error) bool { return target == ErrLimit }

// errDamaged is an entry that will never be of use: Get removes it.
var errDamaged = errors.New("damaged")

var (
	errSum   = errors.New("another SHA-256 than when it was stored")
	errOther = errors.New("contents do not have this digest")
)
