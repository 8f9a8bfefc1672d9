package squashfs

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"

	"hpcimg/squashfs/internal/disk"
)

// treeNode is a name in the tree, with its inode unless it is a hard link.
// There may be millions.
type treeNode struct {
	name   string
	target string // of a symbolic link; path of the target of a hard link

	typ      uint16 // basic type; 0 for a hard link
	mode     uint16
	uid, gid uint32
	mtime    uint32
	device   uint32
	pack     int32
	content  *Content
	xattrs   map[string]string
	dir      *treeDir // of a directory

	// Known when tables are written.
	number uint32
	links  uint32
	ref    disk.Ref
	inode  *treeNode // whose inode this name stands for; nil for its own
}

// treeDir is what only directories have.
type treeDir struct {
	implicit bool // nobody has added it
	children map[string]*treeNode
	sorted   []*treeNode
	list     listing
}

// resolved returns the node that has the inode.
func (n *treeNode) resolved() *treeNode {
	if n.inode != nil {
		return n.inode
	}
	return n
}

func (n *treeNode) isDir() bool { return n.dir != nil }

func (n *treeNode) isHardLink() bool { return n.typ == 0 }

// child returns the entry of a directory by that name, or nil. Other files
// have none.
func (n *treeNode) child(name string) *treeNode {
	if n.dir == nil {
		return nil
	}
	return n.dir.children[name]
}

func (d *treeDir) add(c *treeNode) {
	if d.children == nil {
		d.children = make(map[string]*treeNode)
	}
	d.children[c.name] = c
}

// replace gives an implicit directory the attributes of n.
func (n *treeNode) replace(with *treeNode) error {
	switch {
	case !n.isDir() || !n.dir.implicit:
		return fs.ErrExist
	case !with.isDir():
		return fmt.Errorf("%w, but entries lie in it", ErrNotDirectory)
	}
	with.name, with.dir.children = n.name, n.dir.children
	*n = *with
	return nil
}

func (b *Builder) newDir(name string) *treeNode {
	return &treeNode{
		name: name, typ: disk.TypeDir, mode: 0o755, mtime: storedTime(b.opts.ModTime),
		dir: &treeDir{implicit: true},
	}
}

// makeDir returns the directory at p, a clean path, and makes it and its
// parents if they are not there.
func (b *Builder) makeDir(p string) (*treeNode, error) {
	if p == b.lastDir {
		return b.lastNode, nil
	}
	n := b.root
	if p != "." {
		for name := range strings.SplitSeq(p, "/") {
			c := n.child(name)
			if c == nil {
				c = b.newDir(strings.Clone(name))
				n.dir.add(c)
				b.count++
			}
			if !c.isDir() {
				return nil, fmt.Errorf("%q is %w", name, ErrNotDirectory)
			}
			n = c
		}
	}
	b.lastDir, b.lastNode = p, n
	return n, nil
}

// lookup returns the node at p, a clean path, or nil.
func (b *Builder) lookup(p string) *treeNode {
	n := b.root
	if p == "." {
		return n
	}
	for name := range strings.SplitSeq(p, "/") {
		if n = n.child(name); n == nil {
			return nil
		}
	}
	return n
}

// number sorts all directories, binds hard links to their inodes, counts links
// and returns the inodes in the order in which they are written: those of a
// directory's children one after the other and by name, after all that lies
// deeper. So a directory's listing names few metadata blocks, and reading it
// with the attributes of its entries touches few. The root comes last.
func (b *Builder) number(ctx context.Context) ([]*treeNode, error) {
	if int64(b.count) >= math.MaxUint32-1 {
		return nil, &LimitError{What: "entries", Limit: math.MaxUint32 - 2}
	}
	b.reset(b.root)
	if err := b.bindHardLinks(b.root, ""); err != nil {
		return nil, err
	}
	order := make([]*treeNode, 0, b.count+1)
	var walk func(n *treeNode) error
	walk = func(n *treeNode) error {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("squashfs: %w", err)
		}
		n.links = 2
		for _, c := range n.dir.sorted {
			if c.isDir() {
				n.links++
				if err := walk(c); err != nil {
					return err
				}
			}
		}
		for _, c := range n.dir.sorted {
			if c = c.resolved(); c.number == 0 {
				order = append(order, c)
				c.number = uint32(len(order))
			}
		}
		return nil
	}
	if err := walk(b.root); err != nil {
		return nil, err
	}
	order = append(order, b.root)
	b.root.number = uint32(len(order))
	return order, nil
}

// reset clears what an earlier run has left, and sorts.
func (b *Builder) reset(n *treeNode) {
	n.number, n.links, n.inode, n.ref = 0, 1, nil, 0
	if !n.isDir() {
		return
	}
	n.dir.sorted = slices.SortedFunc(maps.Values(n.dir.children), func(x, y *treeNode) int {
		return strings.Compare(x.name, y.name)
	})
	for _, c := range n.dir.sorted {
		b.reset(c)
	}
}

func (b *Builder) bindHardLinks(n *treeNode, prefix string) error {
	for _, c := range n.dir.sorted {
		if c.isDir() {
			if err := b.bindHardLinks(c, prefix+c.name+"/"); err != nil {
				return err
			}
		}
		if !c.isHardLink() {
			continue
		}
		target, err := b.followHardLink(c)
		if err != nil {
			return &EntryError{Path: prefix + c.name, Err: err}
		}
		c.inode = target
		target.links++
	}
	return nil
}

// followHardLink returns the node with the inode that the link n stands for.
func (b *Builder) followHardLink(n *treeNode) (*treeNode, error) {
	const maxHops = 256 // also ends cycles
	first := n.target
	for range maxHops {
		n = b.lookup(n.target)
		switch {
		case n == nil:
			return nil, fmt.Errorf("hard link to %q: %w", first, fs.ErrNotExist)
		case n.isDir():
			return nil, fmt.Errorf("%w: hard link to the directory %q", fs.ErrInvalid, first)
		case n.inode != nil:
			return n.inode, nil
		case !n.isHardLink():
			return n, nil
		}
	}
	return nil, fmt.Errorf("%w: hard link to %q leads in a circle", fs.ErrInvalid, first)
}
