//go:build unix

package convert

import (
	"io/fs"
	"os"
	"syscall"
)

// trusted reports whether only root and oneself can have written to a file.
func trusted(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && (st.Uid == 0 || int(st.Uid) == os.Geteuid()) && info.Mode().Perm()&0o022 == 0
}
