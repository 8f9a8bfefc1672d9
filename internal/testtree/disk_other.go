//go:build !linux

package testtree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Elsewhere than on Linux a tree on disk is files, directories and symlinks with their permissions.

func mknod(_ string, e Entry) error {
	return fmt.Errorf("%s: no way to make %v: %w", e.Path, e.Mode, errors.ErrUnsupported)
}

func (n *Node) stat(fs.FileInfo) {
	if !n.Mode.IsDir() {
		n.Links = 1
	}
}

func inode(fs.FileInfo) any { return nil }

func setModTime(name string, t time.Time) error {
	if info, err := os.Lstat(name); err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return err
	}
	return os.Chtimes(name, t, t)
}

func setXattr(name, attr, _ string) error {
	return &fs.PathError{Op: "lsetxattr " + attr, Path: name, Err: errors.ErrUnsupported}
}

func readXattrs(string) (map[string]string, error) { return nil, nil }
