package inflate

import (
	"errors"
	"io"
	"strconv"
)

var (
	// ErrCorrupt is what every [*CorruptError] matches.
	ErrCorrupt = errors.New("inflate: corrupt stream")
	// ErrTooLarge reports that a stream inflates to more than the caller's buffer holds.
	ErrTooLarge = errors.New("inflate: output larger than its bound")
)

// CorruptError locates the first place at which a stream cannot be valid. It matches [ErrCorrupt]; a stream that
// merely stops too early also matches [io.ErrUnexpectedEOF].
type CorruptError struct {
	Offset int64 // bytes of input read when it showed
	Err    error // what is wrong there
}

func (e *CorruptError) Error() string {
	return "inflate: offset " + strconv.FormatInt(e.Offset, 10) + ": " + e.Err.Error()
}

// Unwrap returns the reason.
func (e *CorruptError) Unwrap() error { return e.Err }

// Is reports that a CorruptError is an [ErrCorrupt].
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// The reasons a CorruptError gives; io.ErrUnexpectedEOF is one more.
var (
	errBlockType   = errors.New("invalid block type")
	errStored      = errors.New("stored block's length differs from its complement")
	errCodeCounts  = errors.New("too many codes")
	errCodeLengths = errors.New("invalid code lengths")
	errRepeat      = errors.New("invalid code length repeat")
	errCode        = errors.New("unassigned code")
	errDistance    = errors.New("distance beyond the start of the output")
	errZlibHeader  = errors.New("zlib: invalid header")
	errDictionary  = errors.New("zlib: preset dictionary")
	errGzipHeader  = errors.New("gzip: invalid header")
	errChecksum    = errors.New("checksum mismatch")
	errSize        = errors.New("gzip: size mismatch")
	errTruncated   = io.ErrUnexpectedEOF
	errReadCount   = errors.New("inflate: reader returned an impossible count")
)
