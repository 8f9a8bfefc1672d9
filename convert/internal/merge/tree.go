package merge

import (
	"io/fs"
	"maps"
	"slices"

	"hpcimg/convert/internal/layer"
)

// Inode is a file, whatever the number of its names.
type Inode struct {
	*layer.Entry // the one that made it; its Path need not be a name of the inode

	// Data is the contents of a file from AddRoot.
	Data []byte

	// Layer and Index say which entry of which layer it is; Layer is the one given to Apply. Index is -1 for
	// what no layer has.
	Layer, Index int32

	linked bool // a hard link to it has been made
}

// node is a name.
type node struct {
	name     string
	parent   *node
	children map[string]*node // of a directory; nil while it is empty
	inode    *Inode

	touched int32 // the last layer that has added this or something in it
	swept   int32 // the last layer that has removed all that was not touched from here on
}

func (n *node) isDir() bool { return n.inode.Kind == layer.Dir }

func (n *node) child(name string) *node {
	if n == nil {
		return nil
	}
	return n.children[name]
}

// Tree is a root directory in memory. It is not safe for concurrent use.
type Tree struct {
	root     *node
	current  int32 // the layer being applied; 1 for the first
	implicit *layer.Entry
	dirs     dirCache
}

// dirCache remembers how the directory of the latest path was resolved.
type dirCache struct {
	path string
	at   *node // nil if nothing is remembered
}

// NewTree returns an empty root directory of mode 0755. Directories that no layer has get the given time of modification.
func NewTree(modTime uint32) *Tree {
	t := &Tree{implicit: &layer.Entry{Kind: layer.Dir, Mode: 0o755, ModTime: modTime}}
	t.root = &node{inode: t.implicitDir()}
	return t
}

func (t *Tree) implicitDir() *Inode { return &Inode{Entry: t.implicit, Layer: -1, Index: -1} }

// add makes a name in the directory at.
func (t *Tree) add(at *node, name string, inode *Inode) *node {
	n := &node{name: name, parent: at, inode: inode}
	if at.children == nil {
		at.children = make(map[string]*node)
	}
	at.children[name] = n
	return n
}

// remove removes a name and all below it.
func (t *Tree) remove(n *node) {
	delete(n.parent.children, n.name)
	t.dirs.at = nil
}

// touch marks n and the directories that lead to it as part of the current layer.
func (t *Tree) touch(n *node) {
	for ; n != t.root && n.touched != t.current; n = n.parent {
		n.touched = t.current
	}
}

// Visible calls yield for every regular file that has contents in a layer and a name in the tree, once for each of its
// names.
func (t *Tree) Visible(yield func(layerNumber, index int32)) {
	var walk func(*node)
	walk = func(n *node) {
		for _, c := range n.children {
			if c.inode.Kind == layer.File && c.inode.Index >= 0 {
				yield(c.inode.Layer, c.inode.Index)
			}
			walk(c)
		}
	}
	walk(t.root)
}

// Walk calls visit for every name, directories before what is in them and names in order, the root first. For a
// further name of an inode, first is the path with which visit has had it before.
func (t *Tree) Walk(visit func(path string, inode *Inode, first string) error) error {
	names := make(map[*Inode]string) // of those that may come again
	shared := t.shared()
	var walk func(n *node, path string) error
	walk = func(n *node, path string) error {
		first := names[n.inode]
		if first == "" && shared[n.inode] {
			names[n.inode] = path
		}
		if err := visit(path, n.inode, first); err != nil {
			return err
		}
		if len(n.children) == 0 {
			return nil
		}
		prefix := ""
		if n != t.root {
			prefix = path + "/"
		}
		for _, name := range slices.Sorted(maps.Keys(n.children)) {
			if err := walk(n.children[name], prefix+name); err != nil {
				return err
			}
		}
		return nil
	}
	return walk(t.root, ".")
}

// shared returns the inodes with several names. Only hard links make them, so most trees have few.
func (t *Tree) shared() map[*Inode]bool {
	linked := make(map[*Inode]int)
	var walk func(*node)
	walk = func(n *node) {
		for _, c := range n.children {
			if c.inode.linked {
				linked[c.inode]++
			}
			walk(c)
		}
	}
	walk(t.root)
	several := make(map[*Inode]bool)
	for inode, names := range linked {
		if names > 1 {
			several[inode] = true
		}
	}
	return several
}

// Lookup follows path, symbolic links included, and returns what is there, or nil.
func (t *Tree) Lookup(path string) *Inode {
	found, err := t.resolve(path)
	if err != nil || found.node == nil || len(found.missing) > 0 {
		return nil
	}
	return found.node.inode
}

// permission returns what an entry keeps of a mode.
func permission(m fs.FileMode) fs.FileMode {
	return m & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
}
