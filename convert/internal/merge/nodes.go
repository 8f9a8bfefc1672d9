package merge

import (
	"bytes"
	"hash/maphash"
	"slices"

	"hpcimg/convert/internal/layer"
)

// nodeID names a node. Numbers are not used again.
type nodeID uint32

const (
	noNode nodeID = iota
	rootNode
)

// node is a name. An image may have millions, so they refer to one another by number: they are small, and the garbage collector has
// nothing to look at.
type node struct {
	parent, first, next nodeID // first of the directory's children, next of the parent's
	name                nameRef

	index   int32  // see inodeKey
	layer   int16  // see inodeKey
	touched uint16 // the last layer that has added this or something in it
	swept   uint16 // the last layer that has removed all that was not touched from here on
	kind    layer.Kind
	nameLen uint8
	linked  bool // the inode may have other names
	gone    bool // removed, but still in lists
}

// maxLayers is what fits into a node.
const maxLayers = 1<<15 - 2

func (n *node) key() inodeKey { return inodeKey{layer: n.layer, index: n.index} }

func (n *node) setKey(k inodeKey) { n.layer, n.index = k.layer, k.index }

// inodeKey is what an inode comes from: an entry of a layer, or one of the two below.
type inodeKey struct {
	layer int16
	index int32
}

const (
	implicitLayer = -1 // a directory that no layer has
	rootLayer     = -2 // index counts what AddRoot has added
)

// nodes are the nodes of a tree, all that there ever were.
type nodes struct {
	chunks [][]node
	n      nodeID // nodes so far, and the number of the last one
	limit  nodeID // of n
	names  names

	seed  maphash.Seed
	slots []nodeID // by hash of parent and name; those of nodes that are gone stay until it grows
	used  int
}

const nodeChunk = 1024

// An archive need not have the directories of its paths, and symbolic links can make few entries ask for many, again and again. So many
// nodes there may be, and for each entry so many more.
const (
	nodesAtLeast  = 1 << 20
	nodesForEntry = 4
)

func (x *nodes) at(id nodeID) *node { return &x.chunks[id/nodeChunk][id%nodeChunk] }

func (x *nodes) name(n *node) []byte { return x.names.at(n.name, n.nameLen) }

// add makes a name in a directory, which must not have it.
func (x *nodes) add(parent nodeID, name string, k inodeKey, kind layer.Kind) (nodeID, error) {
	if x.n >= x.limit {
		return noNode, &layer.LimitError{What: "directories that have to be made", Limit: int64(x.limit)}
	}
	ref, ok := x.names.add(name)
	if !ok {
		return noNode, &layer.LimitError{What: "bytes in names", Limit: maxNameChunks * nameChunk}
	}
	x.n++
	id := x.n
	if int(id/nodeChunk) == len(x.chunks) {
		x.chunks = append(x.chunks, make([]node, nodeChunk))
	}
	n := x.at(id)
	*n = node{parent: parent, layer: k.layer, index: k.index, kind: kind, name: ref, nameLen: uint8(len(name))}
	if parent == noNode {
		return id, nil
	}
	dir := x.at(parent)
	n.next, dir.first = dir.first, id
	if x.used >= len(x.slots)/4*3 {
		x.grow()
	}
	*x.slot(parent, name, true) = id
	x.used++
	return id, nil
}

// child returns what a directory has under name, or noNode.
func (x *nodes) child(parent nodeID, name string) nodeID {
	if len(x.slots) == 0 || parent == noNode {
		return noNode
	}
	return *x.slot(parent, name, false)
}

// slot returns where name of parent is, or the place for it. Images choose their names: hence the seed.
func (x *nodes) slot(parent nodeID, name string, free bool) *nodeID {
	mask := uint64(len(x.slots) - 1)
	for h := x.hash(parent, name); ; h++ {
		s := &x.slots[h&mask]
		if *s == noNode {
			return s
		}
		if free {
			continue
		}
		n := x.at(*s)
		if !n.gone && n.parent == parent && string(x.name(n)) == name {
			return s
		}
	}
}

func (x *nodes) hash(parent nodeID, name string) uint64 {
	return maphash.String(x.seed, name) + uint64(parent)*0x9e3779b97f4a7c15
}

func (x *nodes) grow() {
	if x.slots == nil {
		x.seed = maphash.MakeSeed()
	}
	live := 0
	for _, id := range x.slots {
		if id != noNode && !x.at(id).gone {
			live++
		}
	}
	old, size := x.slots, max(len(x.slots), 256)
	if live >= size/2 {
		size *= 2
	}
	x.slots, x.used = make([]nodeID, size), live
	for _, id := range old {
		if id != noNode && !x.at(id).gone {
			n := x.at(id)
			*x.slot(n.parent, string(x.name(n)), true) = id
		}
	}
}

// remove removes a name and all below it.
func (x *nodes) remove(id nodeID) { x.at(id).gone = true }

// children appends what is in a directory to list, in no order. What is gone is taken out of the directory, so that it is not
// met again.
func (x *nodes) children(list []nodeID, dir nodeID) []nodeID {
	link := &x.at(dir).first
	for *link != noNode {
		n := x.at(*link)
		if n.gone {
			*link = n.next
			continue
		}
		list = append(list, *link)
		link = &n.next
	}
	return list
}

// sorted appends what is in a directory to list, ordered by name.
func (x *nodes) sorted(list []nodeID, dir nodeID) []nodeID {
	from := len(list)
	list = x.children(list, dir)
	slices.SortFunc(list[from:], func(a, b nodeID) int { return bytes.Compare(x.name(x.at(a)), x.name(x.at(b))) })
	return list
}

// nameRef says where a name is kept.
type nameRef uint32

// names keeps the bytes of names.
type names struct{ chunks [][]byte }

const (
	nameChunk     = 1 << 16
	maxNameChunks = 1 << 16
)

func (x *names) add(name string) (ref nameRef, ok bool) {
	last := len(x.chunks) - 1
	if last < 0 || len(x.chunks[last])+len(name) > nameChunk {
		if len(x.chunks) == maxNameChunks {
			return 0, false
		}
		x.chunks = append(x.chunks, make([]byte, 0, nameChunk))
		last++
	}
	at := len(x.chunks[last])
	x.chunks[last] = append(x.chunks[last], name...)
	return nameRef(last*nameChunk + at), true
}

func (x *names) at(r nameRef, n uint8) []byte {
	at := r % nameChunk
	return x.chunks[r/nameChunk][at : at+nameRef(n)]
}
