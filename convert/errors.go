package convert

import (
	"context"
	"errors"
	"fmt"

	"hpcimg/convert/internal/layer"
)

var (
	// ErrForm is a destination whose form is not said and does not follow from its name.
	ErrForm = errors.New("unknown form of image")
	// ErrArch is an image that is not for the architecture that it claims, see [SIFOptions.StrictArch].
	ErrArch = errors.New("architecture differs")

	// ErrSpace is what every *SpaceError is.
	ErrSpace = errors.New("not enough space")

	// ErrFormat is a layer that is damaged, or not what layers are.
	ErrFormat = layer.ErrFormat
	// ErrLimit is what every *LimitError is.
	ErrLimit = layer.ErrLimit
	// ErrUnsafePath is an entry of a layer whose path no file can have, leads through too many symbolic links, or would make
	// the root something else than a directory.
	ErrUnsafePath = layer.ErrUnsafePath
	// ErrWhiteout is a whiteout that names nothing, or the directory that it is in.
	ErrWhiteout = layer.ErrWhiteout
	// ErrHardLink is a hard link to what is not there or cannot have one. A missing target is fs.ErrNotExist as well.
	ErrHardLink = layer.ErrHardLink
)

type (
	// EntryError is an entry of a layer that an image cannot have. Err is or wraps one of the errors of this package, or
	// errors.ErrUnsupported.
	EntryError = layer.EntryError
	// LimitError is a source that is larger than [Limits] or than what squashfs and Linux have room for. It is ErrLimit.
	LimitError = layer.LimitError
)

// Side says which end of a conversion an error is about.
type Side string

// The sides of a conversion.
const (
	SideSource      Side = "source"
	SideDestination Side = "destination"
)

// Error is the error of a conversion: where it has happened, and Err, which says what. If the context ended, Err is or wraps its
// error.
type Error struct {
	Stage Stage
	Side  Side   // "" for neither
	Layer string // digest of the layer, if it is about one
	Err   error
}

func (e *Error) Error() string {
	s := "convert: "
	if e.Layer != "" {
		s += "layer " + short(e.Layer) + ": "
	} else if e.Stage != "" {
		s += string(e.Stage) + ": "
	}
	return s + e.Err.Error()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// SpaceError is a destination that is too small, or has become so. It is ErrSpace.
type SpaceError struct {
	Dir  string
	Need int64 // bytes, at least; 0 if the file system or a quota has become full in the middle
	Free int64
	Err  error // what the system says, or would have said
}

func (e *SpaceError) Error() string {
	if e.Need == 0 {
		return fmt.Sprintf("no space left in %s: %v", e.Dir, e.Err)
	}
	return fmt.Sprintf("not enough space in %s: %d bytes are needed at least, %d are free", e.Dir, e.Need, e.Free)
}

// Unwrap returns Err.
func (e *SpaceError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrSpace) true.
func (e *SpaceError) Is(target error) bool { return target == ErrSpace }

// cacheError is trouble with a file of the cache. The conversion can do without.
type cacheError struct{ err error }

func (e *cacheError) Error() string { return "cache: " + e.err.Error() }

func (e *cacheError) Unwrap() error { return e.err }

// failure makes err an *Error, unless it is one.
func failure(stage Stage, side Side, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		side = ""
	}
	return &Error{Stage: stage, Side: side, Err: err}
}

// layerFailure is failure for a layer.
func layerFailure(stage Stage, side Side, name string, err error) error {
	err = failure(stage, side, err)
	if e, ok := errors.AsType[*Error](err); ok && e.Layer == "" {
		e.Layer = name
	}
	return err
}

// short abbreviates a digest.
func short(digest string) string {
	const most = len("sha256:") + 12
	if len(digest) > most {
		return digest[:most]
	}
	return digest
}
