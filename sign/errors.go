package sign

import (
	"errors"
	"fmt"
)

var (
	// ErrUnsigned is matched by the error of Verify about a file without signatures, and by a VerifyError about an object that no valid
	// signature covers.
	ErrUnsigned = errors.New("sign: not signed")

	// ErrUntrusted is matched by the error of Verify about a file whose signatures are all by keys that the caller does not trust.
	ErrUntrusted = errors.New("sign: not signed by a trusted key")

	// ErrLimit is matched by every *LimitError.
	ErrLimit = errors.New("sign: limit exceeded")

	// ErrPassphrase is matched by a KeyError about a passphrase that is missing or wrong.
	ErrPassphrase = errors.New("sign: passphrase missing or wrong")
)

// VerifyError says what does not hold in a file that carries a signature.
type VerifyError struct {
	ObjectID uint32 // the data object, or the signature itself; 0 for the global header
	GroupID  uint32 // its group, or that of the signature; 0 for none
	Err      error
}

func (e *VerifyError) Error() string {
	switch {
	case e.ObjectID == 0 && e.GroupID == 0:
		return fmt.Sprintf("sign: %v", e.Err)
	case e.ObjectID == 0:
		return fmt.Sprintf("sign: group %d: %v", e.GroupID, e.Err)
	}
	return fmt.Sprintf("sign: object %d: %v", e.ObjectID, e.Err)
}

// Unwrap returns Err.
func (e *VerifyError) Unwrap() error { return e.Err }

// KeyError says why a key cannot be used. It is errors.ErrUnsupported for a kind of key that is refused.
type KeyError struct {
	Fingerprint Fingerprint
	Err         error
}

func (e *KeyError) Error() string { return fmt.Sprintf("sign: key %s: %v", e.Fingerprint, e.Err) }

// Unwrap returns Err.
func (e *KeyError) Unwrap() error { return e.Err }

// LimitError says that a file or key ring asks for more than this package grants. errors.Is(err, ErrLimit) holds.
type LimitError struct {
	What  string
	Limit int64
}

func (e *LimitError) Error() string { return fmt.Sprintf("sign: %s exceeds %d", e.What, e.Limit) }

// Is reports whether target is ErrLimit.
func (e *LimitError) Is(target error) bool { return target == ErrLimit }
