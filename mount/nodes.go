package mount

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"strings"
	"syscall"
	"time"
)

// Node is a file that [WithNodes] puts into a tree.
type Node struct {
	// Path is where, from the root of the tree. Symbolic links in its directories are followed within the tree; directories
	// that are missing are made, with mode 0755, owned as the node is.
	Path string
	// Mode has type and permissions: a regular file, a directory, a symbolic link, or a device.
	Mode     fs.FileMode
	UID, GID uint32
	ModTime  time.Time
	// Data is what a regular file contains. It must not change any more.
	Data []byte
	// Target is what a symbolic link points at.
	Target       string
	Major, Minor uint32 // of a device
	// Follow makes a symbolic link that the tree has at Path be followed too, as a mount there would; otherwise the node takes its
	// place.
	Follow bool
}

// WithNodes returns a tree in which files have been added to another or have taken the place of its files. A directory where
// the tree has one already changes nothing. Later nodes see earlier ones. The other tree is not changed. Errors are of
// type *fs.PathError, with ENOTDIR or ELOOP for a path that leads nowhere.
func WithNodes(t Tree, nodes []Node) (Tree, error) {
	n := &nodesTree{base: t, dirs: make(map[NodeID]*addedDir), first: 1 << 62}
	if below, ok := t.(*nodesTree); ok {
		n.first = below.first + 1<<48
	}
	n.spans, _ = t.(spanReader)
	for i := range nodes {
		if err := n.add(&nodes[i]); err != nil {
			return nil, &fs.PathError{Op: "add", Path: nodes[i].Path, Err: err}
		}
	}
	return n, nil
}

// nodesTree is a tree over another. Its own nodes and places in directories have numbers from first on.
type nodesTree struct {
	base  Tree
	spans spanReader // the base, if it is one
	first uint64
	nodes []addedNode
	dirs  map[NodeID]*addedDir
}

type addedNode struct {
	Node
	parent NodeID
}

// addedDir is what a directory, of either tree, has besides what the base knows.
type addedDir struct {
	names   map[string]NodeID
	order   []string
	subdirs uint32
}

func (t *nodesTree) own(id NodeID) *addedNode {
	if i := uint64(id) - t.first; uint64(id) >= t.first && i < uint64(len(t.nodes)) {
		return &t.nodes[i]
	}
	return nil
}

// maxLinks is how many symbolic links a path may lead through, as in the kernel.
const maxLinks = 40

func (t *nodesTree) add(n *Node) error {
	if strings.ContainsRune(n.Path, 0) || len(n.Path) > 4096 {
		return fs.ErrInvalid
	}
	switch n.Mode.Type() {
	case 0, fs.ModeDir, fs.ModeSymlink, fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
	default:
		return fmt.Errorf("%v: %w", n.Mode.Type(), errors.ErrUnsupported)
	}
	links := 0
	dir, rest := t.Root(), n.Path
	var stack []NodeID // the directories above dir
	for {
		rest = strings.TrimLeft(rest, "/")
		name, behind, more := strings.Cut(rest, "/")
		more = more && strings.Trim(behind, "/") != ""
		switch name {
		case "", ".":
			if !more {
				return t.replaceRoot(n)
			}
			rest = behind
			continue
		case "..":
			if len(stack) > 0 {
				dir, stack = stack[len(stack)-1], stack[:len(stack)-1]
			}
			if !more {
				return t.replaceRoot(n)
			}
			rest = behind
			continue
		}
		child, mode, err := t.peek(dir, name)
		if err != nil {
			return err
		}
		if mode.Type() == fs.ModeSymlink && (more || n.Follow) {
			if links++; links > maxLinks {
				return syscall.ELOOP
			}
			target, err := t.Readlink(child)
			if err != nil {
				return err
			}
			if path.IsAbs(target) {
				dir, stack = t.Root(), stack[:0]
			}
			if rest = target; more {
				rest += "/" + behind
			}
			continue
		}
		if !more {
			return t.put(dir, name, child, mode, *n)
		}
		switch {
		case child == absent:
			parent := Node{Mode: fs.ModeDir | 0o755, UID: n.UID, GID: n.GID, ModTime: n.ModTime}
			if err := t.put(dir, name, absent, 0, parent); err != nil {
				return err
			}
			child = t.dirs[dir].names[name]
		case !mode.IsDir():
			return syscall.ENOTDIR
		}
		dir, stack, rest = child, append(stack, dir), behind
	}
}

// replaceRoot is about a path that is a directory which is there already.
func (t *nodesTree) replaceRoot(n *Node) error {
	if n.Mode.IsDir() {
		return nil
	}
	return syscall.EISDIR
}

// absent is no node.
const absent NodeID = 1<<64 - 1

// peek is Lookup with the type; absent is no error.
func (t *nodesTree) peek(dir NodeID, name string) (NodeID, fs.FileMode, error) {
	if len(name) > 255 {
		return absent, 0, syscall.ENAMETOOLONG
	}
	child, err := t.Lookup(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return absent, 0, nil
	}
	if err != nil {
		return absent, 0, err
	}
	a, err := t.Attr(child)
	return child, a.Mode, err
}

// put enters a node in a directory. The child, if it is not absent, is what the directory has by that name.
func (t *nodesTree) put(dir NodeID, name string, child NodeID, mode fs.FileMode, n Node) error {
	if child != absent && mode.IsDir() {
		return t.replaceRoot(&n)
	}
	d := t.dirs[dir]
	if d == nil {
		d = &addedDir{names: make(map[string]NodeID)}
		t.dirs[dir] = d
	}
	if _, ok := d.names[name]; !ok {
		d.order = append(d.order, name)
	}
	if n.Mode.IsDir() {
		d.subdirs++
	}
	d.names[name] = NodeID(t.first + uint64(len(t.nodes)))
	t.nodes = append(t.nodes, addedNode{n, dir})
	return nil
}

func (t *nodesTree) Root() NodeID { return t.base.Root() }

func (t *nodesTree) Attr(id NodeID) (Attr, error) {
	n := t.own(id)
	if n == nil {
		a, err := t.base.Attr(id)
		if d := t.dirs[id]; d != nil {
			a.Links += d.subdirs
		}
		return a, err
	}
	a := Attr{
		Number: uint64(id), Mode: n.Mode, UID: n.UID, GID: n.GID, Links: 1,
		Major: n.Major, Minor: n.Minor, ModTime: n.ModTime,
	}
	switch n.Mode.Type() {
	case 0:
		a.Size = int64(len(n.Data))
	case fs.ModeSymlink:
		a.Size = int64(len(n.Target))
	case fs.ModeDir:
		a.Links = 2
		if d := t.dirs[id]; d != nil {
			a.Links += d.subdirs
		}
	}
	return a, nil
}

func (t *nodesTree) Lookup(dir NodeID, name string) (NodeID, error) {
	if d := t.dirs[dir]; d != nil {
		if child, ok := d.names[name]; ok {
			return child, nil
		}
	}
	if n := t.own(dir); n != nil {
		if !n.Mode.IsDir() {
			return 0, syscall.ENOTDIR
		}
		return 0, fs.ErrNotExist
	}
	return t.base.Lookup(dir, name)
}

func (t *nodesTree) ReadDir(dir NodeID, from uint64) iter.Seq2[Dirent, error] {
	d, n := t.dirs[dir], t.own(dir)
	switch {
	case n == nil && d == nil:
		return t.base.ReadDir(dir, from)
	case n != nil && !n.Mode.IsDir():
		return func(yield func(Dirent, error) bool) { yield(Dirent{}, syscall.ENOTDIR) }
	case d == nil:
		d = &addedDir{}
	}
	return func(yield func(Dirent, error) bool) {
		if from < t.first {
			if n == nil && !t.baseEntries(dir, from, d, yield) {
				return
			}
			from = t.first
		}
		for i := from - t.first; i < uint64(len(d.order)); i++ {
			name := d.order[i]
			child := d.names[name]
			e := Dirent{Name: name, Node: child, Number: uint64(child), Type: t.own(child).Mode.Type(), Next: t.first + i + 1}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// baseEntries yields what the base has in a directory and has not been replaced; false means to stop.
func (t *nodesTree) baseEntries(dir NodeID, from uint64, d *addedDir, yield func(Dirent, error) bool) bool {
	for e, err := range t.base.ReadDir(dir, from) {
		if _, replaced := d.names[e.Name]; replaced && err == nil {
			continue
		}
		if !yield(e, err) || err != nil {
			return false
		}
	}
	return true
}

func (t *nodesTree) Readlink(id NodeID) (string, error) {
	n := t.own(id)
	switch {
	case n == nil:
		return t.base.Readlink(id)
	case n.Mode.Type() != fs.ModeSymlink:
		return "", syscall.EINVAL
	}
	return n.Target, nil
}

func (t *nodesTree) Xattrs(id NodeID) (map[string]string, error) {
	if t.own(id) != nil {
		return nil, nil
	}
	return t.base.Xattrs(id)
}

func (t *nodesTree) ReadAt(id NodeID, p []byte, off int64) (int, error) {
	n := t.own(id)
	switch {
	case n == nil:
		return t.base.ReadAt(id, p, off)
	case n.Mode.IsDir():
		return 0, syscall.EISDIR
	case !n.Mode.IsRegular() || off < 0:
		return 0, syscall.EINVAL
	case off >= int64(len(n.Data)):
		return 0, io.EOF
	}
	k := copy(p, n.Data[off:])
	if k < len(p) {
		return k, io.EOF
	}
	return k, nil
}

func (t *nodesTree) readSpan(id NodeID, off int64, size int, e *span) error {
	n := t.own(id)
	switch {
	case n == nil && t.spans != nil:
		return t.spans.readSpan(id, off, size, e)
	case n != nil && n.Mode.IsRegular():
		off = min(off, int64(len(n.Data)))
		if piece := n.Data[off:min(off+int64(size), int64(len(n.Data)))]; len(piece) > 0 {
			e.pieces = append(e.pieces, piece)
		}
		return nil
	}
	return copySpan(t, id, off, size, e)
}

// copySpan reads what is not in memory.
func copySpan(t Tree, id NodeID, off int64, size int, e *span) error {
	e.delayed()
	buf := make([]byte, size)
	k, err := t.ReadAt(id, buf, off)
	if k > 0 {
		e.pieces = append(e.pieces, buf[:k])
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (t *nodesTree) decoding() int32 {
	if t.spans == nil {
		return 0
	}
	return t.spans.decoding()
}

func (t *nodesTree) Statfs() Statfs {
	s := t.base.Statfs()
	s.Nodes += int64(len(t.nodes))
	return s
}
