//go:build unix

package sifedit

import (
	"io/fs"
	"os"
	"syscall"
)

// keepOwner gives f the owner and group of the original as far as the process may do that.
func keepOwner(f *os.File, original fs.FileInfo) {
	if stat, ok := original.Sys().(*syscall.Stat_t); ok {
		if err := f.Chown(int(stat.Uid), int(stat.Gid)); err != nil {
			_ = f.Chown(-1, int(stat.Gid))
		}
	}
}
