package merge

import (
	"io/fs"

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

	// Added counts what AddRoot has added, from 0; -1 for all else.
	Added int32
}

// Tree is a root directory in memory. It is not safe for concurrent use. A name takes some 55 bytes, beside what the lists of
// entries take.
type Tree struct {
	nodes    nodes
	layers   []*layer.Cursor // by number
	added    []rootEntry     // by AddRoot
	current  uint16          // the layer being applied; 1 for the first
	implicit *layer.Entry
	dirs     dirCache
	list     []nodeID // for whoever walks: a stack of directories
}

// rootEntry is a file from AddRoot.
type rootEntry struct {
	layer.Entry
	data []byte
}

// dirCache remembers how the directory of the latest path was resolved.
type dirCache struct {
	path string
	at   nodeID // noNode if nothing is remembered
}

// NewTree returns an empty root directory of mode 0755. Directories that no layer has get the given time of modification.
func NewTree(modTime uint32) *Tree {
	t := &Tree{implicit: &layer.Entry{Kind: layer.Dir, Mode: 0o755, ModTime: modTime}}
	t.nodes.limit = nodesAtLeast
	_, _ = t.nodes.add(noNode, "", inodeKey{layer: implicitLayer}, layer.Dir) // the first one is within all limits
	return t
}

func (t *Tree) at(id nodeID) *node { return t.nodes.at(id) }

func (t *Tree) isDir(id nodeID) bool { return t.at(id).kind == layer.Dir }

func (t *Tree) child(dir nodeID, name string) nodeID { return t.nodes.child(dir, name) }

// addDir makes a directory that no layer has.
func (t *Tree) addDir(at nodeID, name string) (nodeID, error) {
	return t.nodes.add(at, name, inodeKey{layer: implicitLayer}, layer.Dir)
}

// entry returns the entry that has made the inode of n.
func (t *Tree) entry(n *node) *layer.Entry {
	switch n.layer {
	case implicitLayer:
		return t.implicit
	case rootLayer:
		return &t.added[n.index].Entry
	}
	return t.layers[n.layer].At(int(n.index)) // good until the next call
}

func (t *Tree) inode(n *node) Inode {
	i := Inode{Entry: t.entry(n), Layer: int32(n.layer), Index: n.index, Added: -1}
	if n.layer < 0 {
		i.Layer, i.Index = -1, -1
	}
	if n.layer == rootLayer {
		i.Added, i.Data = n.index, t.added[n.index].data
	}
	return i
}

// remove removes a name and all below it.
func (t *Tree) remove(id nodeID) {
	t.nodes.remove(id)
	t.dirs.at = noNode
}

// touch marks a node and the directories that lead to it as part of the current layer.
func (t *Tree) touch(id nodeID) {
	for id != rootNode {
		n := t.at(id)
		if n.touched == t.current {
			return
		}
		n.touched = t.current
		id = n.parent
	}
}

// Visible calls yield for every regular file that has contents in a layer and a name in the tree, once for each of its
// names.
func (t *Tree) Visible(yield func(layerNumber, index int32)) {
	t.all(func(n *node) {
		if n.kind == layer.File && n.layer >= 0 {
			yield(int32(n.layer), n.index)
		}
	})
}

// all calls visit for every node but the root, in no order.
func (t *Tree) all(visit func(*node)) {
	stack := t.nodes.children(t.list[:0], rootNode)
	for len(stack) > 0 {
		id := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		n := t.at(id)
		visit(n)
		if n.first != noNode {
			stack = t.nodes.children(stack, id)
		}
	}
	t.list = stack
}

// Walk calls visit for every name, directories before what is in them and names in order, the root first. For a
// further name of an inode, first is the path with which visit has had it before. The inode is that of this call only.
func (t *Tree) Walk(visit func(path string, inode *Inode, first string) error) error {
	inode := t.inode(t.at(rootNode))
	if err := visit(".", &inode, ""); err != nil {
		return err
	}
	firsts := make(map[inodeKey]string) // of those that may come again
	shared := t.shared()
	return t.walk(func(n *node, name []byte) error {
		path, first := string(name), ""
		if n.linked && shared[n.key()] > 1 {
			if first = firsts[n.key()]; first == "" {
				firsts[n.key()] = path
			}
		}
		inode = t.inode(n)
		return visit(path, &inode, first)
	})
}

// Added calls visit for what AddRoot has added and is still there, in the order of Walk.
func (t *Tree) Added(visit func(*Inode) error) error {
	return t.walk(func(n *node, _ []byte) error {
		if n.layer != rootLayer {
			return nil
		}
		inode := t.inode(n)
		return visit(&inode)
	})
}

// Files calls visit for every name of a regular file that has contents in a layer, in the order of Walk.
func (t *Tree) Files(visit func(layerNumber, index int32) error) error {
	return t.walk(func(n *node, _ []byte) error {
		if n.kind != layer.File || n.layer < 0 {
			return nil
		}
		return visit(int32(n.layer), n.index)
	})
}

// walk calls visit for every name but the root, with its path, in the order of Walk.
func (t *Tree) walk(visit func(n *node, path []byte) error) error {
	w := walk{Tree: t, visit: visit, list: t.list[:0]}
	err := w.dir(rootNode)
	t.list = w.list[:0]
	return err
}

type walk struct {
	*Tree
	visit func(n *node, path []byte) error
	list  []nodeID
	path  []byte // of the directory, with a slash
}

// dir visits what is in a directory.
func (w *walk) dir(dir nodeID) error {
	from, prefix := len(w.list), len(w.path)
	w.list = w.nodes.sorted(w.list, dir)
	defer func() { w.list, w.path = w.list[:from], w.path[:prefix] }()
	for i, end := from, len(w.list); i < end; i++ {
		id := w.list[i]
		n := w.at(id)
		w.path = append(w.path[:prefix], w.nodes.name(n)...)
		if err := w.visit(n, w.path); err != nil {
			return err
		}
		if n.first == noNode {
			continue
		}
		w.path = append(w.path, '/')
		if err := w.dir(id); err != nil {
			return err
		}
	}
	return nil
}

// shared counts the names of inodes that may have several. Only hard links make them, so most trees have few.
func (t *Tree) shared() map[inodeKey]int {
	names := make(map[inodeKey]int)
	t.all(func(n *node) {
		if n.linked {
			names[n.key()]++
		}
	})
	return names
}

// Lookup follows path, symbolic links included, and returns what is there, or nil.
func (t *Tree) Lookup(path string) *Inode {
	found, err := t.resolve(path)
	if err != nil || found.node == noNode || len(found.missing) > 0 {
		return nil
	}
	i := t.inode(t.at(found.node))
	return &i
}

// permission returns what an entry keeps of a mode.
func permission(m fs.FileMode) fs.FileMode {
	return m & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
}
