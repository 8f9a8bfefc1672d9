package convert

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// cloneRange lets dst share blocks with src, which takes neither time nor space, and reports whether the file system could. All
// segments begin and end at multiples of its block size.
func cloneRange(dst *os.File, to int64, src *os.File, from, n int64) bool {
	if n == 0 {
		return true
	}
	r := &unix.FileCloneRange{
		Src_fd: int64(src.Fd()), Src_offset: uint64(from), Src_length: uint64(n), Dest_offset: uint64(to),
	}
	return unix.IoctlFileCloneRange(int(dst.Fd()), r) == nil
}

// copyPart copies within the kernel if it can.
func copyPart(dst *os.File, to int64, src *os.File, from, n int64) error {
	for n > 0 {
		m, err := unix.CopyFileRange(int(src.Fd()), &from, int(dst.Fd()), &to, int(min(n, 1<<30)), 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || m <= 0 {
			// Between file systems, on old kernels and some network file systems; and the end of the file.
			return copyThrough(dst, to, src, from, n)
		}
		n -= int64(m)
	}
	return nil
}
