package runtime

import (
	"os"

	"hpcimg/mount"
	"hpcimg/squashfs"
)

// extra is an image besides the one that the command runs in: laid over it, or bound. It is served through FUSE, in one mount with the
// others, where it is the directory of its name.
type extra struct {
	name     string
	path     string
	file     *os.File
	identity identity
	offset   int64
	size     int64
	reader   *squashfs.Reader
	tree     mount.Tree
}

func (x *extra) Close() error { return x.file.Close() }

// unwritten says whether the file is as it was when the plan was made.
func (x *extra) unwritten() error {
	info, err := x.file.Stat()
	return x.identity.check("read", x.path, info, err)
}
