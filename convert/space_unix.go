//go:build linux || darwin

package convert

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const errFull = syscall.ENOSPC

// freeSpace returns how many bytes this user can still write in dir, or -1.
func freeSpace(dir string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Bsize <= 0 {
		return -1
	}
	const most = 1 << 62
	if st.Bavail > most/uint64(st.Bsize) {
		return most
	}
	return int64(st.Bavail) * int64(st.Bsize)
}

func sameFileSystem(a, b string) bool {
	ai, aErr := os.Stat(a)
	bi, bErr := os.Stat(b)
	if aErr != nil || bErr != nil {
		return false
	}
	as, aOK := ai.Sys().(*syscall.Stat_t)
	bs, bOK := bi.Sys().(*syscall.Stat_t)
	return aOK && bOK && as.Dev == bs.Dev
}

// isFull reports whether err is that of a file system or a quota that is used up.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
