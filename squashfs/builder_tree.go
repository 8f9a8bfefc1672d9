package squashfs

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"io/fs"
	"slices"
	"strings"

	"hpcimg/squashfs/internal/disk"
)

// A tree holds names and attributes of the entries of an image: some 60 bytes
// for each, without a pointer among them. Nodes refer to one another by number,
// names and targets lie in an arena, and all directories share one hash table.
// Children have no order until tables are written.
type tree struct {
	nodes  [][]node // in chunks, so that growing takes no second copy
	count  uint32
	dirs   uint32
	texts  arena
	links  []hardLink
	owners ownerSet
	xattrs xattrSets

	// index finds children by name: open addressing, at most half full. 0 is
	// empty; the root is nobody's child.
	index []nodeID
	seed  maphash.Seed
}

// nodeID numbers nodes in the order in which they came. The root is 0.
type nodeID uint32

// node is a name in the tree, with its inode unless it is a hard link.
type node struct {
	name     addr
	parent   nodeID
	owner    uint32 // in ownerSet
	xattrs   uint32 // in xattrSets
	mtime    uint32
	data     uint32 // by typ: ordinal of a directory or hard link, addr of a target or content, device
	mode     uint16
	typ      uint8 // basic type; 0 for a hard link
	implicit bool  // a directory that nobody has added
}

// hardLink is what only hard links have: the node that they lead to or, as
// long as it had not been added, its path.
type hardLink struct {
	node, inode nodeID // inode 0 is unknown
	target      addr
}

const (
	chunkLog   = 10
	chunkNodes = 1 << chunkLog
	minIndex   = 64
)

func (t *tree) at(id nodeID) *node { return &t.nodes[id>>chunkLog][id&(chunkNodes-1)] }

func (t *tree) isDir(id nodeID) bool { return t.at(id).typ == disk.TypeDir }

func (t *tree) name(id nodeID) []byte { return t.texts.text(t.at(id).name) }

// path returns the path of a node that is not the root.
func (t *tree) path(id nodeID) string {
	var names []string
	for ; id != 0; id = t.at(id).parent {
		names = append(names, string(t.name(id)))
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}

// newNode appends a node that no name leads to yet.
func (t *tree) newNode(n node) nodeID {
	if int(t.count) == len(t.nodes)*chunkNodes {
		t.nodes = append(t.nodes, make([]node, chunkNodes))
	}
	id := nodeID(t.count)
	t.count++
	if n.typ == disk.TypeDir {
		n.data = t.dirs
		t.dirs++
	}
	*t.at(id) = n
	return id
}

// addChild appends n as an entry of parent, which must have none of that name.
func (t *tree) addChild(parent nodeID, name string, n node) (nodeID, error) {
	if t.count >= maxNodes {
		return 0, &LimitError{What: "entries", Limit: maxNodes - 1}
	}
	var err error
	if n.name, err = t.texts.addString(name); err != nil {
		return 0, err
	}
	n.parent = parent
	id := t.newNode(n)
	if int(t.count) > len(t.index)/2 {
		t.grow()
	} else {
		t.enter(id)
	}
	return id, nil
}

// maxNodes leaves room for the number that the root's parent has.
const maxNodes = 1<<32 - 2

func (t *tree) grow() {
	t.index = make([]nodeID, max(2*len(t.index), minIndex))
	for id := nodeID(1); uint32(id) < t.count; id++ {
		t.enter(id)
	}
}

func (t *tree) enter(id nodeID) {
	mask := len(t.index) - 1
	i := spread(maphash.Bytes(t.seed, t.name(id)), t.at(id).parent) & mask
	for t.index[i] != 0 {
		i = (i + 1) & mask
	}
	t.index[i] = id
}

// spread tells equal names in different directories apart.
func spread(h uint64, parent nodeID) int {
	h ^= uint64(parent) * 0x9e3779b97f4a7c15
	return int(h>>32 ^ h&0xffffffff)
}

// child returns the entry of a directory by that name.
func (t *tree) child(parent nodeID, name string) (nodeID, bool) {
	if len(t.index) == 0 {
		return 0, false
	}
	mask := len(t.index) - 1
	i := spread(maphash.String(t.seed, name), parent) & mask
	for ; t.index[i] != 0; i = (i + 1) & mask {
		if id := t.index[i]; t.at(id).parent == parent && string(t.name(id)) == name {
			return id, true
		}
	}
	return 0, false
}

// lookup returns the node at p, a clean path.
func (t *tree) lookup(p string) (id nodeID, ok bool) {
	if p == "." {
		return 0, true
	}
	for name := range strings.SplitSeq(p, "/") {
		if id, ok = t.child(id, name); !ok {
			return 0, false
		}
	}
	return id, true
}

// replace gives an implicit directory the attributes of n.
func (t *tree) replace(id nodeID, n node) error {
	old := t.at(id)
	switch {
	case !old.implicit:
		return fs.ErrExist
	case n.typ != disk.TypeDir:
		return fmt.Errorf("%w, but entries lie in it", ErrNotDirectory)
	}
	n.name, n.parent, n.data = old.name, old.parent, old.data
	*old = n
	return nil
}

// addLink appends a hard link.
func (t *tree) addLink(parent nodeID, name, target string) error {
	l := hardLink{}
	if id, ok := t.lookup(target); ok && !t.isDir(id) {
		if l.inode = id; t.at(id).typ == 0 {
			l.inode = t.links[t.at(id).data].inode
		}
	}
	var err error
	if l.inode == 0 {
		if l.target, err = t.texts.addString(target); err != nil {
			return err
		}
	}
	if l.node, err = t.addChild(parent, name, node{data: uint32(len(t.links))}); err == nil {
		t.links = append(t.links, l)
	}
	return err
}

// inodeOf returns the node with the inode that the hard link l stands for.
func (t *tree) inodeOf(l hardLink) (nodeID, error) {
	const maxHops = 256 // also ends cycles
	if l.inode != 0 {
		return l.inode, nil
	}
	first := l.target
	for range maxHops {
		id, ok := t.lookup(string(t.texts.text(l.target)))
		switch {
		case !ok:
			return 0, fmt.Errorf("hard link to %q: %w", t.texts.text(first), fs.ErrNotExist)
		case t.isDir(id):
			return 0, fmt.Errorf("%w: hard link to the directory %q", fs.ErrInvalid, t.texts.text(first))
		case t.at(id).typ != 0:
			return id, nil
		}
		if l = t.links[t.at(id).data]; l.inode != 0 {
			return l.inode, nil
		}
	}
	return 0, fmt.Errorf("%w: hard link to %q leads in a circle", fs.ErrInvalid, t.texts.text(first))
}

// ownerSet numbers pairs of user and group: an image has few.
type ownerSet struct {
	index map[owners]uint32
	list  []owners
}

type owners struct{ uid, gid uint32 }

func (s *ownerSet) add(o owners) uint32 {
	if i, ok := s.index[o]; ok {
		return i
	}
	if s.index == nil {
		s.index = make(map[owners]uint32)
	}
	i := uint32(len(s.list))
	s.index[o] = i
	s.list = append(s.list, o)
	return i
}

// compareNames orders children.
func (t *tree) compareNames(x, y nodeID) int { return bytes.Compare(t.name(x), t.name(y)) }
