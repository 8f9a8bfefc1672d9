package mount

import (
	"io/fs"
	"iter"
	"time"
)

// NodeID names a file of a [Tree], for as long as the Tree lives. All names of one file (hard links) share it. IDs are
// smaller than 1<<63.
type NodeID uint64

// Tree is a read-only file system by nodes, as [Serve] asks for it. [NewTree] is one over a squashfs image; [WithNodes] puts
// further files over any. It never changes: kernels keep what they have been told for hours. Methods are called from many
// goroutines at once.
//
// An error that is or wraps a syscall.Errno, fs.ErrNotExist or fs.ErrPermission is what the process that asked gets; for any
// other it gets EIO.
type Tree interface {
	// Root is the directory that everything lies in.
	Root() NodeID
	// Attr returns the attributes of a node.
	Attr(node NodeID) (Attr, error)
	// Lookup returns what a name stands for in a directory, or fs.ErrNotExist. It is not asked about "." and "..".
	Lookup(dir NodeID, name string) (NodeID, error)
	// ReadDir yields the entries of a directory but "." and "..", from the start if from is 0, else behind the entry whose Next
	// from is.
	ReadDir(dir NodeID, from uint64) iter.Seq2[Dirent, error]
	// Readlink returns the target of a symbolic link.
	Readlink(node NodeID) (string, error)
	// Xattrs returns extended attributes by full names. The error errors.ErrUnsupported says that no file of the tree has any.
	Xattrs(node NodeID) (map[string]string, error)
	// ReadAt reads from a regular file, as io.ReaderAt says.
	ReadAt(node NodeID, p []byte, off int64) (int, error)
	// Statfs describes the file system as a whole.
	Statfs() Statfs
}

// Attr is the attributes of a node.
type Attr struct {
	Number       uint64      // what stat(2) shows as the inode number
	Mode         fs.FileMode // type and permissions, setuid, setgid and sticky bits included
	Size         int64
	UID, GID     uint32
	Links        uint32
	Major, Minor uint32    // of a device
	ModTime      time.Time // in seconds
}

// Dirent is an entry of a directory.
type Dirent struct {
	Name   string
	Node   NodeID
	Number uint64
	Type   fs.FileMode // type bits only
	Next   uint64      // where [Tree.ReadDir] goes on behind it; not 0, and smaller than 1<<63
}

// Statfs describes a file system.
type Statfs struct {
	Bytes     int64 // that the image takes
	Nodes     int64
	BlockSize int // what reads are best a multiple of
}
