package atomicfile

import (
	"cmp"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// openUnnamed opens a new file in dir that has no name, so that nothing is left of it when the process ends. It returns nil where
// there is no such thing, or no way to give the file a name later.
func openUnnamed(dir, name string) *os.File {
	for {
		fd, err := unix.Open(cmp.Or(dir, "."), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil // for a better reason, opening it with a name says so
		}
		f := os.NewFile(uintptr(fd), name)
		if unix.Access(descriptor(f), unix.F_OK) != nil { // no /proc
			_ = f.Close()
			return nil
		}
		return f
	}
}

// link gives an unnamed file a name, which must not be taken.
func link(f *os.File, name string) error {
	for {
		err := unix.Linkat(unix.AT_FDCWD, descriptor(f), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return &os.LinkError{Op: "link", Old: f.Name(), New: name, Err: err}
		}
		return nil
	}
}

func descriptor(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }
