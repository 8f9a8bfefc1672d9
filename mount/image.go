package mount

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"iter"
	"maps"
	"strings"
	"sync"
	"syscall"

	"hpcimg/squashfs"
)

// TreeOptions are the options of [NewTree].
type TreeOptions struct {
	// CacheSize is how many bytes of decoded blocks are kept; 0 means 32 MiB. Kernels keep what they have read themselves: this
	// is for blocks of which they have read a part. The tables of the image are in the reader's cache.
	CacheSize int64
	// ReadAhead is how many blocks are decoded beyond what a sequential reader has asked for, at most 16; 0 means 16, -1 none.
	ReadAhead int
	// Overlaid says that nothing in the image is to mean anything to overlays which are laid over it. A character device 0:0, which is
	// the absence of a file to them, appears as 0:1, and attributes trusted.overlay.* do not appear. (Attributes user.overlay.*
	// mean something to overlays with the option userxattr only.)
	Overlaid bool
}

// NewTree returns the tree of an image. Blocks are decoded once, however many readers want them at the same time, and
// ahead of a reader who reads one after the other. Nil options are the defaults. The memory is given back when nothing
// refers to the tree any more.
func NewTree(r *squashfs.Reader, o *TreeOptions) Tree {
	var v TreeOptions
	if o != nil {
		v = *o
	}
	t := &imageTree{r: r, overlaid: v.Overlaid, zero: make([]byte, r.BlockSize())}
	t.blocks = newBlockCache(cmp.Or(max(v.CacheSize, 0), 32<<20), r.BlockSize(), r.ReadBlock)
	t.ahead = newReadAhead(t.blocks, v.ReadAhead)
	for i := range t.inodes {
		t.inodes[i].entries = make(map[squashfs.InodeRef]*squashfs.Inode) // grows: a short command needs few
	}
	return t
}

type imageTree struct {
	r      *squashfs.Reader
	blocks *blockCache
	ahead  *readAhead
	zero   []byte // a block of a hole
	inodes [32]inodeShard
	// overlaid: see TreeOptions.
	overlaid bool
}

// inodeShard remembers the inodes that were used last: the block list of a large file is dear to find one's way in.
type inodeShard struct {
	mu      sync.Mutex
	entries map[squashfs.InodeRef]*squashfs.Inode
	ring    [inodesPerShard]squashfs.InodeRef // in order of arrival
	next    int
}

const inodesPerShard = 128

func (t *imageTree) shard(ref squashfs.InodeRef) *inodeShard {
	return &t.inodes[uint64(ref)*0x9e3779b97f4a7c15>>59]
}

func (t *imageTree) inode(node NodeID) (*squashfs.Inode, error) {
	ref := squashfs.InodeRef(node)
	s := t.shard(ref)
	s.mu.Lock()
	in := s.entries[ref]
	s.mu.Unlock()
	if in != nil {
		return in, nil
	}
	in, err := t.r.Inode(ref)
	if err == nil {
		t.remember(in)
	}
	return in, err
}

func (t *imageTree) remember(in *squashfs.Inode) {
	s := t.shard(in.Ref())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[in.Ref()] != nil {
		return
	}
	if len(s.entries) == len(s.ring) {
		delete(s.entries, s.ring[s.next])
	}
	s.entries[in.Ref()] = in
	s.ring[s.next] = in.Ref()
	s.next = (s.next + 1) % len(s.ring)
}

func (t *imageTree) Root() NodeID { return NodeID(t.r.Root().Ref()) }

func (t *imageTree) Attr(node NodeID) (Attr, error) {
	in, err := t.inode(node)
	if err != nil {
		return Attr{}, err
	}
	rdev := in.Rdev()
	if t.overlaid && in.Mode().Type() == whiteoutType && rdev == (squashfs.Rdev{}) {
		rdev.Minor = 1
	}
	return Attr{
		Number: uint64(in.Number()), Mode: in.Mode(), Size: in.Size(), UID: in.UID(), GID: in.GID(), Links: in.LinkCount(),
		Major: rdev.Major, Minor: rdev.Minor, ModTime: in.ModTime(),
	}, nil
}

// whiteoutType is the type of the device by which overlays say that there is no such file.
const whiteoutType = fs.ModeDevice | fs.ModeCharDevice

func (t *imageTree) Lookup(dir NodeID, name string) (NodeID, error) {
	in, err := t.inode(dir)
	if err != nil {
		return 0, err
	}
	child, err := in.Lookup(name)
	if err != nil {
		return 0, err
	}
	t.remember(child)
	return NodeID(child.Ref()), nil
}

func (t *imageTree) ReadDir(dir NodeID, from uint64) iter.Seq2[Dirent, error] {
	return func(yield func(Dirent, error) bool) {
		in, err := t.inode(dir)
		if err != nil {
			yield(Dirent{}, err)
			return
		}
		for e, err := range in.ReadDir(from) {
			if !yield(Dirent{Name: e.Name, Node: NodeID(e.Ref), Number: uint64(e.Number), Type: e.Type, Next: e.Next}, err) {
				return
			}
		}
	}
}

func (t *imageTree) Readlink(node NodeID) (string, error) {
	in, err := t.inode(node)
	if err != nil {
		return "", err
	}
	if in.Mode().Type() != fs.ModeSymlink {
		return "", syscall.EINVAL
	}
	return in.Readlink(), nil
}

func (t *imageTree) Xattrs(node NodeID) (map[string]string, error) {
	if !t.r.HasXattrs() {
		return nil, errors.ErrUnsupported
	}
	in, err := t.inode(node)
	if err != nil {
		return nil, err
	}
	set, err := in.Xattrs()
	if t.overlaid {
		maps.DeleteFunc(set, func(name, _ string) bool { return strings.HasPrefix(name, "trusted.overlay.") })
	}
	return set, err
}

func (t *imageTree) ReadAt(node NodeID, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, syscall.EINVAL
	}
	var e span
	defer e.release()
	if err := t.readSpan(node, off, len(p), &e); err != nil {
		return 0, err
	}
	n := 0
	for _, piece := range e.pieces {
		n += copy(p[n:], piece)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (t *imageTree) Statfs() Statfs {
	return Statfs{Bytes: t.r.BytesUsed(), Nodes: int64(t.r.Inodes()), BlockSize: t.r.BlockSize()}
}

// span is a part of a file, in pieces that must not be written to, and are valid until release.
type span struct {
	pieces [][]byte
	held   []*block
	slow   func() // called before anything that takes long, if it is set
}

func (e *span) delayed() {
	if e.slow != nil {
		e.slow()
	}
}

func (e *span) release() {
	for i, b := range e.held {
		b.release()
		e.held[i] = nil
	}
	clear(e.pieces)
	e.held, e.pieces = e.held[:0], e.pieces[:0]
}

func (e *span) size() int {
	n := 0
	for _, p := range e.pieces {
		n += len(p)
	}
	return n
}

// spanReader is a Tree that has contents in memory, to be handed out without a copy.
type spanReader interface {
	readSpan(node NodeID, off int64, n int, e *span) error
	// decoding is how many blocks are being decoded ahead.
	decoding() int32
}

func (t *imageTree) decoding() int32 { return t.ahead.decoding.Load() }

// readSpan appends n bytes of a file from off on to e, or as many as there are.
func (t *imageTree) readSpan(node NodeID, off int64, n int, e *span) error {
	in, err := t.inode(node)
	if err != nil {
		return err
	}
	if err := regular(in); err != nil {
		return err
	}
	if off >= in.Size() {
		return nil
	}
	n = int(min(int64(n), in.Size()-off))
	bs := int64(t.r.BlockSize())
	first, last := off/bs, (off+int64(n)-1)/bs
	w, err := t.window(in, first, last)
	if err != nil {
		return err
	}
	t.ahead.want(w.next())
	skip := int(off - first*bs)
	for i := range w.wanted() {
		b := &w.blocks[w.first+i]
		k := min(n, b.Size-skip)
		if k <= 0 {
			break
		}
		if err := t.appendBlock(e, *b, 0, skip, k); err != nil {
			return err
		}
		n, skip = n-k, 0
	}
	if n > 0 {
		return t.appendTail(e, in, skip, n)
	}
	return nil
}

func regular(in *squashfs.Inode) error {
	switch {
	case in.IsDir():
		return syscall.EISDIR
	case !in.Mode().IsRegular():
		return syscall.EINVAL
	}
	return nil
}

// appendTail appends n bytes of what a file has in a fragment, from skip on.
func (t *imageTree) appendTail(e *span, in *squashfs.Inode, skip, n int) error {
	f, ok, err := in.Fragment()
	if err != nil {
		return err
	}
	if !ok || skip+n > f.Size {
		return errShortFile
	}
	return t.appendBlock(e, f.Block, f.Offset, skip, n)
}

var errShortFile = errors.New("mount: a file is longer than its blocks")

// appendBlock appends n bytes of a block, from base+skip on.
func (t *imageTree) appendBlock(e *span, b squashfs.Block, base, skip, n int) error {
	if b.Hole() {
		e.pieces = append(e.pieces, t.zero[:n])
		return nil
	}
	held, err := t.blocks.acquire(b, e.delayed)
	if err != nil {
		return err
	}
	if base+skip+n > len(held.data) {
		size := len(held.data)
		held.release()
		return &squashfs.FormatError{Structure: "fragment block", Offset: b.Offset, Err: &shortBlockError{base + skip + n, size}}
	}
	e.held = append(e.held, held)
	e.pieces = append(e.pieces, held.data[base+skip:base+skip+n])
	return nil
}
