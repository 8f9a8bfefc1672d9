package export

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// exchange swaps what has two names. The error is errors.ErrUnsupported where that is not possible.
func exchange(a, b string) error { return rename(a, b, unix.RENAME_EXCHANGE) }

// renameNew gives a file a name that nothing has. The error is errors.ErrUnsupported where that is not possible in one step.
func renameNew(from, to string) error { return rename(from, to, unix.RENAME_NOREPLACE) }

func rename(from, to string, flags uint) error {
	for {
		err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EINVAL): // what file systems say that do not know the flag
			err = errors.ErrUnsupported
		}
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
}
