//go:build !linux

package squashfs

import (
	"io/fs"
	"os"
)

// describeHost knows no more than [fs.FileInfo] does: everything belongs to
// root, and each name is a file of its own.
func describeHost(*Entry, fs.FileInfo) (ino hostInode, links uint64) {
	return hostInode{}, 1
}

func hostXattrs(*os.Root, string, *os.File) (map[string]string, error) { return nil, nil }
