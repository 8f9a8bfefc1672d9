package merge

import (
	"context"
	"fmt"
	"io/fs"
	"strings"

	"hpcimg/convert/internal/layer"
)

// Apply applies the entries of a layer, in their order. The tree refers to them, so the list must stay as it is. number, which must not be
// negative, is what Inode.Layer will say. Errors are *layer.EntryError, or that of ctx.
func (t *Tree) Apply(ctx context.Context, number int32, entries *layer.List) error {
	const checkEvery = 1024
	if number < 0 || number >= maxLayers || t.current >= maxLayers {
		return &layer.EntryError{Name: ".", Err: &layer.LimitError{What: "layers", Limit: maxLayers}}
	}
	t.current++
	for len(t.layers) <= int(number) {
		t.layers = append(t.layers, nil)
	}
	t.layers[number] = &layer.Cursor{List: entries}
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
	t.nodes.limit += nodesForEntry
	switch e.Kind {
	case layer.Opaque:
		return t.opaque(e.Path)
	case layer.Whiteout:
		return t.whiteout(e.Path)
	}
	key := inodeKey{layer: int16(number), index: index}
	if e.Path == "." {
		if e.Kind != layer.Dir {
			return layer.ErrUnsafePath
		}
		t.at(rootNode).setKey(key)
		return nil
	}
	dirPath, name := split(e.Path)
	dir, err := t.makeDir(dirPath)
	if err != nil {
		return err
	}
	old := t.child(dir, name)
	if old != noNode && e.Kind == layer.Dir && t.isDir(old) {
		t.at(old).setKey(key)
		t.touch(old)
		return nil
	}
	if old != noNode {
		t.remove(old)
	}
	if e.Kind == layer.HardLink {
		return t.link(dir, name, e.Link)
	}
	if e.Kind == layer.Symlink {
		t.dirs.at = noNode
	}
	n, err := t.nodes.add(dir, name, key, e.Kind)
	if err != nil {
		return err
	}
	t.touch(n)
	return nil
}

// link makes a further name for what has the path target.
func (t *Tree) link(dir nodeID, name, target string) error {
	id, err := t.linkTarget(target)
	if err != nil {
		return err
	}
	old := t.at(id)
	old.linked = true
	n, err := t.nodes.add(dir, name, old.key(), old.kind)
	if err != nil {
		return err
	}
	t.at(n).linked = true
	t.touch(n)
	return nil
}

func split(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

// linkTarget returns the name of the inode to which a hard link is to be made.
func (t *Tree) linkTarget(path string) (nodeID, error) {
	if path == "." {
		return noNode, fmt.Errorf("%w: to the root directory", layer.ErrHardLink)
	}
	dirPath, name := split(path)
	dir, err := t.findDir(dirPath)
	if err != nil {
		return noNode, fmt.Errorf("%w: %w", layer.ErrHardLink, err)
	}
	target := t.child(dir, name)
	switch {
	case target == noNode:
		return noNode, fmt.Errorf("%w: to %s: %w", layer.ErrHardLink, clip(path), fs.ErrNotExist)
	case t.isDir(target):
		return noNode, fmt.Errorf("%w: to the directory %s", layer.ErrHardLink, clip(path))
	}
	return target, nil
}

// whiteout removes what the layers below have at path.
func (t *Tree) whiteout(path string) error {
	dirPath, name := split(path)
	dir, err := t.findDir(dirPath)
	if err != nil {
		return err
	}
	if n := t.child(dir, name); n != noNode {
		t.sweep(n)
	}
	return nil
}

// opaque removes what the layers below have in the directory at path.
func (t *Tree) opaque(path string) error {
	dir, err := t.findDir(path)
	if dir == noNode {
		return err
	}
	t.sweepChildren(dir)
	return nil
}

// sweep removes a node if it comes from the layers below, or else what is in it and does.
func (t *Tree) sweep(id nodeID) {
	if t.at(id).touched != t.current {
		t.remove(id)
		return
	}
	t.sweepChildren(id)
}

// sweepChildren need not visit what it has visited for this layer before: all that has come since is of this layer.
func (t *Tree) sweepChildren(dir nodeID) {
	n := t.at(dir)
	if n.swept == t.current {
		return
	}
	n.swept = t.current
	for _, c := range t.nodes.children(nil, dir) {
		t.sweep(c)
	}
}
