package testtree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hpcimg/internal/oracle"
)

// Dir writes the tree into the directory root. Devices, owners other than root, and xattrs outside user.* need root: the test
// is skipped without it. An ordinary user owns what it writes. Parents that the tree lacks are made with mode 0755.
func (t Tree) Dir(tb testing.TB, root string) {
	tb.Helper()
	if t.needsRoot() {
		oracle.Root(tb)
	}
	for _, e := range t {
		if err := e.create(root); err != nil {
			tb.Fatalf("testtree: %v", err)
		}
	}
	// In a second pass from the end, so that making an entry does not change its directory's attributes again and a
	// directory that its owner may not write is filled first.
	for i := len(t) - 1; i >= 0; i-- {
		if err := t[i].setAttributes(root); err != nil {
			if errors.Is(err, errors.ErrUnsupported) {
				oracle.Need(tb, oracle.NeedFS, err)
			}
			tb.Fatalf("testtree: %v", err)
		}
	}
}

func (t Tree) needsRoot() bool {
	for _, e := range t {
		if e.UID != 0 || e.GID != 0 || e.Mode&fs.ModeDevice != 0 {
			return true
		}
		for name := range e.Xattrs {
			if !strings.HasPrefix(name, "user.") {
				return true
			}
		}
	}
	return false
}

func (e Entry) create(root string) error {
	name := filepath.Join(root, e.Path)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	switch {
	case e.HardLink != "":
		return os.Link(filepath.Join(root, e.HardLink), name)
	case e.Mode.IsRegular():
		return os.WriteFile(name, e.Data, 0o600)
	case e.Mode.IsDir():
		return os.MkdirAll(name, 0o755)
	case e.Mode&fs.ModeSymlink != 0:
		return os.Symlink(e.Target, name)
	}
	return mknod(name, e)
}

func (e Entry) setAttributes(root string) error {
	if e.HardLink != "" {
		return nil
	}
	name := filepath.Join(root, e.Path)
	if os.Geteuid() == 0 {
		if err := os.Lchown(name, e.UID, e.GID); err != nil {
			return err
		}
	}
	for attr, value := range e.Xattrs {
		if err := setXattr(name, attr, value); err != nil {
			return err
		}
	}
	if e.Mode&fs.ModeSymlink == 0 {
		if err := os.Chmod(name, e.Mode); err != nil {
			return err
		}
	}
	return setModTime(name, time.Unix(e.MTime, 0))
}

// Walk lists a directory on disk, which may be a mount.
func Walk(root string) (Listing, error) {
	l := make(Listing)
	inodes := make(map[string]any)
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		n, err := nodeOnDisk(name, info)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = path.Clean(filepath.ToSlash(rel))
		l[rel] = n
		if n.Links > 1 {
			inodes[rel] = inode(info)
		}
		return nil
	})
	l.group(inodes)
	return l, err
}

func nodeOnDisk(name string, info fs.FileInfo) (Node, error) {
	n := Node{Mode: info.Mode(), ModTime: info.ModTime().Unix()}
	n.stat(info)
	xattrs, err := readXattrs(name)
	if err != nil {
		return n, err
	}
	n.Xattrs = FormatXattrs(xattrs)
	switch {
	case n.Mode.IsRegular():
		f, err := os.Open(name)
		if err != nil {
			return n, err
		}
		defer f.Close()
		if n.Size, n.SHA256, err = sumReader(f); err != nil {
			return n, err
		}
		if n.Size != info.Size() {
			return n, fmt.Errorf("%s: %d bytes read, %d announced", name, n.Size, info.Size())
		}
	case n.Mode&fs.ModeSymlink != 0:
		n.Target, err = os.Readlink(name)
	}
	return n, err
}
