package mount

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"time"

	"hpcimg/mount/internal/wire"
)

// ServeOptions are the options of [Serve].
type ServeOptions struct {
	// Threads bounds how many requests are worked on at a time; 0 means twice the number of processors, and at least 4.
	Threads int
	// KeepFor is how long a kernel may keep names, attributes and the absence of names without asking again; 0 means a day.
	KeepFor time.Duration
	// Owner, if set, translates owners, which the kernel understands in the user namespace in which the device was opened. IDs that
	// have no mapping there appear as the overflow ID, and overlays cannot copy such files.
	Owner func(uid, gid uint32) (uint32, uint32)
	// OnError, if set, is told what ended in EIO for somebody, as a *ServeError. It is called from many goroutines, and must
	// not touch the file system that is served.
	OnError func(error)
}

func (o *ServeOptions) withDefaults(procs int) ServeOptions {
	var v ServeOptions
	if o != nil {
		v = *o
	}
	if v.Threads <= 0 {
		v.Threads = min(max(4, 2*procs), 64)
	}
	if v.KeepFor <= 0 {
		v.KeepFor = 24 * time.Hour
	}
	if v.OnError == nil {
		v.OnError = func(error) {}
	}
	if v.Owner == nil {
		v.Owner = func(uid, gid uint32) (uint32, uint32) { return uid, gid }
	}
	return v
}

// ServeError says what a process was told to be EIO. For a damaged image Err is or wraps a *squashfs.FormatError, which
// names the block.
type ServeError struct {
	Op     string // "lookup", "read", …
	Node   NodeID
	Offset int64 // of a read
	Err    error
}

// Error implements error.
func (e *ServeError) Error() string {
	return fmt.Sprintf("mount: %s of node %#x at %d: %v", e.Op, uint64(e.Node), e.Offset, e.Err)
}

// Unwrap returns Err.
func (e *ServeError) Unwrap() error { return e.Err }

const (
	// wireRoot is the root directory in the protocol.
	wireRoot = 1
	// maxRead is the longest read that a kernel is allowed to ask for.
	maxRead = 1 << 20
	// maxListing bounds the part of a directory that is sent at a time.
	maxListing = 64 << 10
	maxName    = 255
	// maxErrno is the highest number of an error that a kernel takes. It leaves whoever asked waiting for another answer.
	maxErrno = 511
)

// answerer makes replies of requests. It knows nothing of descriptors.
type answerer struct {
	tree     Tree
	spans    spanReader // the tree, if it is one
	root     NodeID
	valid    wire.Valid
	o        ServeOptions
	pageSize int
}

func newAnswerer(t Tree, o ServeOptions, pageSize int) *answerer {
	a := &answerer{tree: t, root: t.Root(), o: o, pageSize: pageSize}
	a.spans, _ = t.(spanReader)
	seconds := uint64(o.KeepFor / time.Second)
	a.valid = wire.Valid{Entry: seconds, Attr: seconds}
	return a
}

// reply is a reply in the making: head, and what follows it without having been copied. Each thread has one, and uses it
// again.
type reply struct {
	head []byte
	body span
	buf  []byte // for trees that have no spans
}

func (r *reply) reset() {
	r.head = wire.AppendHeader(r.head[:0])
	r.body.release()
}

// answer makes the reply to a request; false means that there is none to be sent.
func (a *answerer) answer(msg []byte, r *reply) bool {
	r.reset()
	req, err := wire.Parse(msg)
	if err != nil || req.NoReply() {
		return false
	}
	if err := a.dispatch(&req, r); err != nil {
		r.reset()
		wire.SetHeader(r.head, req.Unique, int32(a.errno(&req, err)), 0)
		return true
	}
	wire.SetHeader(r.head, req.Unique, 0, r.body.size())
	return true
}

func (a *answerer) dispatch(req *wire.Request, r *reply) error {
	node := a.node(req.Node)
	switch req.Op {
	case wire.OpInit:
		return a.init(req, r)
	case wire.OpLookup:
		return a.lookup(req, node, r)
	case wire.OpGetattr:
		attr, err := a.attr(node)
		if err == nil {
			r.head = wire.AppendAttr(r.head, &attr, a.valid)
		}
		return err
	case wire.OpReadlink:
		target, err := a.tree.Readlink(node)
		if len(target) >= a.pageSize {
			return fmt.Errorf("symbolic link target of %d bytes: kernels take %d", len(target), a.pageSize-1)
		}
		r.head = append(r.head, target...)
		return err
	case wire.OpRead:
		return a.read(req, node, r)
	case wire.OpReaddir:
		return a.readdir(req, node, r, false)
	case wire.OpReaddirplus:
		return a.readdir(req, node, r, true)
	case wire.OpGetxattr, wire.OpListxattr:
		return a.xattr(req, node, r)
	case wire.OpStatfs:
		a.statfs(r)
		return nil
	case wire.OpDestroy, wire.OpRelease, wire.OpReleasedir:
		return nil
	}
	if req.Changes() {
		return syscall.EROFS
	}
	// Open and Opendir among the others: the kernel then opens files itself from here on, and keeps what it has read of them.
	return syscall.ENOSYS
}

// errno returns what the process that asked gets to see.
func (a *answerer) errno(req *wire.Request, err error) syscall.Errno {
	if e, ok := errors.AsType[syscall.Errno](err); ok && e != syscall.EIO && e > 0 && e <= maxErrno {
		return e
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return syscall.ENOENT
	case errors.Is(err, fs.ErrPermission):
		return syscall.EACCES
	case errors.Is(err, errors.ErrUnsupported):
		return syscall.ENOSYS
	case errors.Is(err, wire.ErrRequest):
		return syscall.EINVAL
	}
	a.tell(req, err)
	return syscall.EIO
}

// tell says that somebody gets to see EIO.
func (a *answerer) tell(req *wire.Request, err error) {
	e := &ServeError{Op: opName(req.Op), Node: a.node(req.Node), Err: err}
	if rg, rangeErr := req.Range(); rangeErr == nil && req.Op == wire.OpRead {
		e.Offset = int64(rg.Offset)
	}
	a.o.OnError(e)
}

// refused makes r the reply to a request whose first one the kernel has not taken, and says why.
func (a *answerer) refused(msg []byte, r *reply, err error) {
	r.reset()
	if req, parseErr := wire.Parse(msg); parseErr == nil {
		a.tell(&req, err)
		wire.SetHeader(r.head, req.Unique, int32(syscall.EIO), 0)
	}
}

func opName(op uint32) string {
	switch op {
	case wire.OpLookup:
		return "lookup"
	case wire.OpGetattr:
		return "stat"
	case wire.OpReadlink:
		return "readlink"
	case wire.OpRead:
		return "read"
	case wire.OpReaddir, wire.OpReaddirplus:
		return "readdir"
	case wire.OpGetxattr, wire.OpListxattr:
		return "xattr"
	}
	return fmt.Sprintf("operation %d", op)
}

// node turns a node of the protocol, where 0 is none and 1 the root, into one of the tree; wireNode is the way back.
func (a *answerer) node(n uint64) NodeID {
	if n == wireRoot {
		return a.root
	}
	return NodeID(n - wireRoot - 1)
}

func (a *answerer) wireNode(n NodeID) uint64 {
	if n == a.root {
		return wireRoot
	}
	return uint64(n) + wireRoot + 1
}

func (a *answerer) init(req *wire.Request, r *reply) error {
	in, err := req.Init()
	if err != nil {
		return err
	}
	if in.Major < wire.Major || in.Major == wire.Major && in.Minor < wire.MinMinor {
		return syscall.EPROTO
	}
	const wanted = wire.InitAsyncRead | wire.InitReaddirplus | wire.InitParallelDirops | wire.InitCacheSymlinks |
		wire.InitNoOpen | wire.InitNoOpendir | wire.InitMaxPages
	r.head = wire.AppendInit(r.head, &wire.InitReply{
		Minor: min(in.Minor, wire.Minor), MaxReadahead: max(in.MaxReadahead, maxRead), Flags: in.Flags & wanted,
		MaxBackground: 64, MaxWrite: 4096, MaxPages: uint16(maxRead / a.pageSize),
	})
	return nil
}

func (a *answerer) attr(node NodeID) (wire.Attr, error) {
	t, err := a.tree.Attr(node)
	if err != nil {
		return wire.Attr{}, err
	}
	uid, gid := a.o.Owner(t.UID, t.GID)
	return wire.Attr{
		Number: t.Number, Size: uint64(t.Size), ModTime: t.ModTime.Unix(), Mode: unixMode(t.Mode), Links: t.Links,
		UID: uid, GID: gid, Rdev: t.Minor&0xff | t.Major<<8 | t.Minor&^0xff<<12, Block: uint32(a.tree.Statfs().BlockSize),
	}, nil
}

// unixMode is the mode as stat(2) has it.
func unixMode(m fs.FileMode) uint32 {
	u := uint32(m.Perm())
	for _, bit := range []struct {
		mode fs.FileMode
		unix uint32
	}{{fs.ModeSetuid, syscall.S_ISUID}, {fs.ModeSetgid, syscall.S_ISGID}, {fs.ModeSticky, syscall.S_ISVTX}} {
		if m&bit.mode != 0 {
			u |= bit.unix
		}
	}
	return u | unixType(m)
}

func unixType(m fs.FileMode) uint32 {
	switch m.Type() {
	case fs.ModeDir:
		return syscall.S_IFDIR
	case fs.ModeSymlink:
		return syscall.S_IFLNK
	case fs.ModeDevice:
		return syscall.S_IFBLK
	case fs.ModeDevice | fs.ModeCharDevice:
		return syscall.S_IFCHR
	case fs.ModeNamedPipe:
		return syscall.S_IFIFO
	case fs.ModeSocket:
		return syscall.S_IFSOCK
	}
	return syscall.S_IFREG
}

func (a *answerer) lookup(req *wire.Request, dir NodeID, r *reply) error {
	name, err := req.Name(0)
	if err != nil {
		return err
	}
	if len(name) > maxName {
		return syscall.ENAMETOOLONG
	}
	node, err := a.tree.Lookup(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		r.head = wire.AppendEntry(r.head, 0, &wire.Attr{}, a.valid)
		return nil
	}
	if err != nil {
		return err
	}
	attr, err := a.attr(node)
	if err == nil {
		r.head = wire.AppendEntry(r.head, a.wireNode(node), &attr, a.valid)
	}
	return err
}

func (a *answerer) read(req *wire.Request, node NodeID, r *reply) error {
	rg, err := req.Range()
	if err != nil {
		return err
	}
	// A shorter reply would mean the end of the file.
	if rg.Size > maxRead || rg.Offset > 1<<62 {
		return syscall.EINVAL
	}
	if a.spans != nil {
		return a.spans.readSpan(node, int64(rg.Offset), int(rg.Size), &r.body)
	}
	r.buf = slices.Grow(r.buf[:0], int(rg.Size))[:rg.Size]
	n, err := a.tree.ReadAt(node, r.buf, int64(rg.Offset))
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if n > 0 {
		r.body.pieces = append(r.body.pieces, r.buf[:n])
	}
	return nil
}

// Offsets in directories: 0 is the start, 1 and 2 are behind "." and "..", and what a tree gave is 2 higher.
const dotOffsets = 2

func (a *answerer) readdir(req *wire.Request, dir NodeID, r *reply, plus bool) error {
	rg, err := req.Range()
	if err != nil {
		return err
	}
	limit := wire.OutHeaderSize + int(min(rg.Size, maxListing))
	own, err := a.attr(dir)
	if err != nil {
		return err
	}
	add := func(name string, number, next uint64, mode uint32, node uint64, attr *wire.Attr) (ok bool) {
		if plus {
			r.head, ok = wire.AppendDirentPlus(r.head, limit, name, number, next, mode, node, attr, a.valid)
		} else {
			r.head, ok = wire.AppendDirent(r.head, limit, name, number, next, mode)
		}
		return ok
	}
	for i, name := range []string{".", ".."} {
		if rg.Offset <= uint64(i) && !add(name, own.Number, uint64(i)+1, own.Mode, 0, &wire.Attr{}) {
			return nil
		}
	}
	from := max(rg.Offset, dotOffsets) - dotOffsets
	for e, err := range a.tree.ReadDir(dir, from) {
		if err != nil && len(r.head) > wire.OutHeaderSize {
			return nil // the next part of the directory begins with the error
		}
		if err != nil {
			return err
		}
		var attr wire.Attr
		var node uint64
		if plus {
			// A node of another type than its entry says would be a lie to one of those who ask: the kernel gets to look it up.
			if at, err := a.attr(e.Node); err == nil && at.Mode&syscall.S_IFMT == unixType(e.Type) {
				attr, node = at, a.wireNode(e.Node)
			}
		}
		if !add(e.Name, e.Number, e.Next+dotOffsets, unixType(e.Type), node, &attr) {
			return nil
		}
	}
	return nil
}

func (a *answerer) xattr(req *wire.Request, node NodeID, r *reply) error {
	size, err := req.XattrSize()
	if err != nil {
		return err
	}
	set, err := a.tree.Xattrs(node)
	if err != nil {
		return err
	}
	var value string
	if req.Op == wire.OpGetxattr {
		name, err := req.Name(wire.XattrSizeLen)
		if err != nil {
			return err
		}
		v, ok := set[name]
		switch {
		case !ok && strings.HasPrefix(name, "system."):
			return syscall.EOPNOTSUPP
		case !ok:
			return syscall.ENODATA
		}
		value = v
	} else {
		value = xattrList(set, req.UID)
	}
	switch {
	case size == 0:
		r.head = wire.AppendXattrSize(r.head, len(value))
	case int(size) < len(value):
		return syscall.ERANGE
	default:
		r.head = append(r.head, value...)
	}
	return nil
}

// xattrList returns names as listxattr(2) does: those of the namespace trusted are for root.
func xattrList(set map[string]string, uid uint32) string {
	var names []string
	for name := range set {
		if uid == 0 || !strings.HasPrefix(name, "trusted.") {
			names = append(names, name+"\x00")
		}
	}
	slices.Sort(names)
	return strings.Join(names, "")
}

func (a *answerer) statfs(r *reply) {
	s := a.tree.Statfs()
	block := max(s.BlockSize, 512)
	r.head = wire.AppendStatfs(r.head, &wire.Statfs{
		Blocks: uint64((s.Bytes + int64(block) - 1) / int64(block)), Files: uint64(s.Nodes), Block: uint32(block), NameLen: maxName,
	})
}
