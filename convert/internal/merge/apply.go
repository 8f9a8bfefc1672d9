package merge

import (
	"context"
	"fmt"
	"io/fs"
	"strings"

	"hpcimg/convert/internal/layer"
)

// Apply applies the entries of a layer, in their order. The tree keeps pointers to them. number is what Inode.Layer will say. Errors are *layer.EntryError,
// or that of ctx.
func (t *Tree) Apply(ctx context.Context, number int32, entries *layer.List) error {
	const checkEvery = 1024
	t.current++
	for i, e := range entries.All() {
		if i%checkEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := t.apply(number, int32(i), e); err != nil {
			return &layer.EntryError{Name: e.Path, Err: err}
		}
	}
	return nil
}

func (t *Tree) apply(number, index int32, e *layer.Entry) error {
	switch e.Kind {
	case layer.Opaque:
		return t.opaque(e.Path)
	case layer.Whiteout:
		return t.whiteout(e.Path)
	}
	if e.Path == "." {
		if e.Kind != layer.Dir {
			return layer.ErrUnsafePath
		}
		t.root.inode = newInode(number, index, e)
		return nil
	}
	dirPath, name := split(e.Path)
	dir, err := t.makeDir(dirPath)
	if err != nil {
		return err
	}
	old := dir.child(name)
	if old != nil && e.Kind == layer.Dir && old.isDir() {
		old.inode = newInode(number, index, e)
		t.touch(old)
		return nil
	}
	if old != nil {
		t.remove(old)
	}
	var inode *Inode
	if e.Kind == layer.HardLink {
		if inode, err = t.linkTarget(e.Link); err != nil {
			return err
		}
		inode.linked = true
	} else {
		inode = newInode(number, index, e)
	}
	if e.Kind == layer.Symlink {
		t.dirs.at = nil
	}
	t.touch(t.add(dir, name, inode))
	return nil
}

func newInode(number, index int32, e *layer.Entry) *Inode {
	return &Inode{Entry: e, Layer: number, Index: index}
}

func split(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

// linkTarget returns the inode to which a hard link is to be made.
func (t *Tree) linkTarget(path string) (*Inode, error) {
	if path == "." {
		return nil, fmt.Errorf("%w: to the root directory", layer.ErrHardLink)
	}
	dirPath, name := split(path)
	dir, err := t.findDir(dirPath)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", layer.ErrHardLink, err)
	}
	target := dir.child(name)
	switch {
	case target == nil:
		return nil, fmt.Errorf("%w: to %s: %w", layer.ErrHardLink, clip(path), fs.ErrNotExist)
	case target.isDir():
		return nil, fmt.Errorf("%w: to the directory %s", layer.ErrHardLink, clip(path))
	}
	return target.inode, nil
}

// whiteout removes what the layers below have at path.
func (t *Tree) whiteout(path string) error {
	dirPath, name := split(path)
	dir, err := t.findDir(dirPath)
	if err != nil {
		return err
	}
	if n := dir.child(name); n != nil {
		t.sweep(n)
	}
	return nil
}

// opaque removes what the layers below have in the directory at path.
func (t *Tree) opaque(path string) error {
	dir, err := t.findDir(path)
	if dir == nil {
		return err
	}
	t.sweepChildren(dir)
	return nil
}

// sweep removes n if it comes from the layers below, or else what is in it and does.
func (t *Tree) sweep(n *node) {
	if n.touched != t.current {
		t.remove(n)
		return
	}
	t.sweepChildren(n)
}

// sweepChildren need not visit what it has visited for this layer before: all that has come since is of this layer.
func (t *Tree) sweepChildren(n *node) {
	if n.swept == t.current {
		return
	}
	n.swept = t.current
	for _, c := range n.children {
		t.sweep(c)
	}
}
