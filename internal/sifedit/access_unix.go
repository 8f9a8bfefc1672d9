//go:build unix

package sifedit

import (
	"io/fs"
	"os"
	"syscall"

	"hpcimg/internal/atomicfile"
)

// keepAccess gives dst the access that src has: owner, group, access control list and mode. Owner and group stay as far as the process may do
// that. What the group or the list grants is not granted to somebody else in their stead.
func keepAccess(dst *atomicfile.File, src *os.File, info fs.FileInfo) {
	mode := info.Mode().Perm()
	group := true
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && dst.Chown(int(stat.Uid), int(stat.Gid)) != nil {
		group = dst.Chown(-1, int(stat.Gid)) == nil
	}
	// Where there is a list, the bits of the group are those of its mask.
	if list := keepACL(dst.File, src); !list || !group {
		const bits = 0o070
		mode &^= bits &^ (mode << 3)
	}
	dst.SetMode(mode)
}
