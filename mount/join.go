package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strings"
	"syscall"
)

// Branch is a tree with a name, for [Join].
type Branch struct {
	Name string
	Tree Tree
}

// MaxBranches is how many trees [Join] takes.
const MaxBranches = 256

// Join returns a tree whose root directory has those of others by their names: several images in one mount, which one
// server answers for. The others' nodes have to be smaller than 1<<48, as those of NewTree are and those of WithNodes are
// not: add nodes to what is joined. An error says which name or tree cannot be.
func Join(branches ...Branch) (Tree, error) {
	if len(branches) > MaxBranches {
		return nil, fmt.Errorf("mount: %d trees to join, more than %d: %w", len(branches), MaxBranches, fs.ErrInvalid)
	}
	t := &joinedTree{names: make(map[string]int), noXattrs: true}
	for i, b := range branches {
		if _, twice := t.names[b.Name]; twice || b.Name == "." || !fs.ValidPath(b.Name) || len(b.Name) > 255 || strings.Contains(b.Name, "/") {
			return nil, &fs.PathError{Op: "join", Path: b.Name, Err: fs.ErrInvalid}
		}
		root := b.Tree.Root()
		if uint64(root) >= 1<<branchShift {
			return nil, &fs.PathError{Op: "join", Path: b.Name, Err: fmt.Errorf("node %#x: %w", uint64(root), fs.ErrInvalid)}
		}
		if _, err := b.Tree.Xattrs(root); !errors.Is(err, errors.ErrUnsupported) {
			t.noXattrs = false
		}
		t.names[b.Name] = i
		spans, _ := b.Tree.(spanReader)
		t.branches = append(t.branches, joinedBranch{b, spans})
	}
	return t, nil
}

// joinedTree has the nodes of branch i from (i+1)<<branchShift on. Its own root is 0.
type joinedTree struct {
	branches []joinedBranch
	names    map[string]int
	noXattrs bool // in none of them
}

type joinedBranch struct {
	Branch
	spans spanReader // the tree, if it is one
}

const (
	branchShift = 48
	numberShift = 32 // of inode numbers, which have that many bits in a squashfs image
)

// of returns the branch of a node, and the node there; a nil branch is the root directory.
func (t *joinedTree) of(id NodeID) (b *joinedBranch, i int, node NodeID, err error) {
	i = int(id>>branchShift) - 1
	switch {
	case id == 0:
		return nil, 0, 0, nil
	case i < 0 || i >= len(t.branches):
		return nil, 0, 0, syscall.ESTALE
	}
	return &t.branches[i], i, id & (1<<branchShift - 1), nil
}

func joinedID(i int, node NodeID) NodeID { return NodeID(i+1)<<branchShift | node }

func joinedNumber(i int, number uint64) uint64 { return uint64(i+1)<<numberShift + number }

func (t *joinedTree) Root() NodeID { return 0 }

func (t *joinedTree) Attr(id NodeID) (Attr, error) {
	b, i, node, err := t.of(id)
	if err != nil {
		return Attr{}, err
	}
	if b == nil {
		return Attr{Number: 1, Mode: fs.ModeDir | 0o755, Links: uint32(2 + len(t.branches))}, nil
	}
	a, err := b.Tree.Attr(node)
	a.Number = joinedNumber(i, a.Number)
	return a, err
}

func (t *joinedTree) Lookup(dir NodeID, name string) (NodeID, error) {
	b, i, node, err := t.of(dir)
	if err != nil {
		return 0, err
	}
	if b == nil {
		i, ok := t.names[name]
		if !ok {
			return 0, fs.ErrNotExist
		}
		return joinedID(i, t.branches[i].Tree.Root()), nil
	}
	child, err := b.Tree.Lookup(node, name)
	return joinedID(i, child), err
}

func (t *joinedTree) ReadDir(dir NodeID, from uint64) iter.Seq2[Dirent, error] {
	return func(yield func(Dirent, error) bool) {
		b, i, node, err := t.of(dir)
		switch {
		case err != nil:
			yield(Dirent{}, err)
			return
		case b == nil:
			t.readRoot(from, yield)
			return
		}
		for e, err := range b.Tree.ReadDir(node, from) {
			e.Node, e.Number = joinedID(i, e.Node), joinedNumber(i, e.Number)
			if !yield(e, err) {
				return
			}
		}
	}
}

func (t *joinedTree) readRoot(from uint64, yield func(Dirent, error) bool) {
	for i := int(min(from, uint64(len(t.branches)))); i < len(t.branches); i++ {
		b := &t.branches[i]
		a, err := b.Tree.Attr(b.Tree.Root())
		e := Dirent{
			Name: b.Name, Node: joinedID(i, b.Tree.Root()), Number: joinedNumber(i, a.Number), Type: fs.ModeDir, Next: uint64(i + 1),
		}
		if !yield(e, err) || err != nil {
			return
		}
	}
}

func (t *joinedTree) Readlink(id NodeID) (string, error) {
	b, _, node, err := t.of(id)
	switch {
	case err != nil:
		return "", err
	case b == nil:
		return "", syscall.EINVAL
	}
	return b.Tree.Readlink(node)
}

func (t *joinedTree) Xattrs(id NodeID) (map[string]string, error) {
	b, _, node, err := t.of(id)
	switch {
	case t.noXattrs:
		return nil, errors.ErrUnsupported
	case err != nil || b == nil:
		return nil, err
	}
	m, err := b.Tree.Xattrs(node)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, nil // others have some
	}
	return m, err
}

func (t *joinedTree) ReadAt(id NodeID, p []byte, off int64) (int, error) {
	b, _, node, err := t.of(id)
	switch {
	case err != nil:
		return 0, err
	case b == nil:
		return 0, syscall.EISDIR
	}
	return b.Tree.ReadAt(node, p, off)
}

func (t *joinedTree) readSpan(id NodeID, off int64, n int, e *span) error {
	b, _, node, err := t.of(id)
	switch {
	case err != nil:
		return err
	case b == nil:
		return syscall.EISDIR
	case b.spans != nil:
		return b.spans.readSpan(node, off, n, e)
	}
	return copySpan(b.Tree, node, off, n, e)
}

func (t *joinedTree) decoding() int32 {
	var n int32
	for i := range t.branches {
		if spans := t.branches[i].spans; spans != nil {
			n += spans.decoding()
		}
	}
	return n
}

func (t *joinedTree) Statfs() Statfs {
	var s Statfs
	for _, b := range t.branches {
		of := b.Tree.Statfs()
		s.Bytes, s.Nodes, s.BlockSize = s.Bytes+of.Bytes, s.Nodes+of.Nodes, max(s.BlockSize, of.BlockSize)
	}
	return s
}
