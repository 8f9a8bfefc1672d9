package squashfs

import (
	"io/fs"
	"path"
	"time"
)

// FileInfo describes a file of an image. It implements fs.FileInfo; Sys
// returns the [*Inode].
type FileInfo struct {
	name string
	in   *Inode
}

func newFileInfo(name string, in *Inode) *FileInfo { return &FileInfo{path.Base(name), in} }

// Name returns the last element of the file's path.
func (fi *FileInfo) Name() string { return fi.name }

// Size returns what [Inode.Size] does.
func (fi *FileInfo) Size() int64 { return fi.in.Size() }

// Mode returns type and permission bits.
func (fi *FileInfo) Mode() fs.FileMode { return fi.in.Mode() }

// ModTime returns the modification time.
func (fi *FileInfo) ModTime() time.Time { return fi.in.ModTime() }

// IsDir reports whether the file is a directory.
func (fi *FileInfo) IsDir() bool { return fi.in.IsDir() }

// Sys returns the *Inode.
func (fi *FileInfo) Sys() any { return fi.in }

// UID returns the owner.
func (fi *FileInfo) UID() uint32 { return fi.in.UID() }

// GID returns the group.
func (fi *FileInfo) GID() uint32 { return fi.in.GID() }

// Inode returns the inode number. Names of one file (hard links) share it.
func (fi *FileInfo) Inode() uint32 { return fi.in.Number() }

// LinkCount returns the number of links.
func (fi *FileInfo) LinkCount() uint32 { return fi.in.LinkCount() }

// Rdev returns the number of a device.
func (fi *FileInfo) Rdev() Rdev { return fi.in.Rdev() }

// Target returns the target of a symbolic link.
func (fi *FileInfo) Target() string { return fi.in.Readlink() }

// Xattrs returns the extended attributes by their full names. The map is the
// caller's.
func (fi *FileInfo) Xattrs() (map[string]string, error) { return fi.in.Xattrs() }

// String formats the file as fs.FormatFileInfo does.
func (fi *FileInfo) String() string { return fs.FormatFileInfo(fi) }
