package wire

import "math"

// Flags of Init that a read-only file system may want.
const (
	InitAsyncRead       = 1 << 0
	InitReaddirplus     = 1 << 13
	InitNoOpen          = 1 << 17
	InitParallelDirops  = 1 << 18
	InitMaxPages        = 1 << 22
	InitCacheSymlinks   = 1 << 23
	InitNoOpendir       = 1 << 24
	InitReaddirplusAuto = 1 << 14
)

// Version of the protocol.
const (
	Major    = 7
	Minor    = 31
	MinMinor = 23 // from there on the reply to Init has its present size
)

// Attr is the attributes of a file, with the mode as in stat(2).
type Attr struct {
	Number  uint64
	Size    uint64
	ModTime int64
	Mode    uint32
	Links   uint32
	UID     uint32
	GID     uint32
	Rdev    uint32
	Block   uint32
}

// Valid says for how many seconds the kernel may keep what it is told.
type Valid struct{ Entry, Attr uint64 }

const (
	attrSize      = 88
	entrySize     = 128
	direntSize    = 24
	initOutSize   = 64
	statfsOutSize = 80
)

// AppendHeader appends room for the header of a reply; SetHeader fills it in.
func AppendHeader(dst []byte) []byte {
	return append(dst, make([]byte, OutHeaderSize)...)
}

// SetHeader completes the header at the start of msg, of which extra bytes follow elsewhere. errno is positive, or 0.
func SetHeader(msg []byte, unique uint64, errno int32, extra int) {
	order.PutUint32(msg, uint32(len(msg)+extra))
	order.PutUint32(msg[4:], uint32(-errno))
	order.PutUint64(msg[8:], unique)
}

func appendAttr(dst []byte, a *Attr) []byte {
	var b [attrSize]byte
	order.PutUint64(b[0:], a.Number)
	order.PutUint64(b[8:], a.Size)
	order.PutUint64(b[16:], (a.Size+511)/512)
	order.PutUint64(b[24:], uint64(a.ModTime))
	order.PutUint64(b[32:], uint64(a.ModTime))
	order.PutUint64(b[40:], uint64(a.ModTime))
	order.PutUint32(b[60:], a.Mode)
	order.PutUint32(b[64:], a.Links)
	order.PutUint32(b[68:], a.UID)
	order.PutUint32(b[72:], a.GID)
	order.PutUint32(b[76:], a.Rdev)
	order.PutUint32(b[80:], a.Block)
	return append(dst, b[:]...)
}

// AppendAttr appends the reply to Getattr.
func AppendAttr(dst []byte, a *Attr, v Valid) []byte {
	dst = order.AppendUint64(dst, v.Attr)
	dst = order.AppendUint64(dst, 0)
	return appendAttr(dst, a)
}

// AppendEntry appends the reply to Lookup: a node and its attributes. Node 0 says that there is none, for as long as v says.
func AppendEntry(dst []byte, node uint64, a *Attr, v Valid) []byte {
	dst = order.AppendUint64(dst, node)
	dst = order.AppendUint64(dst, 0) // generation
	dst = order.AppendUint64(dst, v.Entry)
	dst = order.AppendUint64(dst, v.Attr)
	dst = order.AppendUint64(dst, 0) // nanoseconds of both
	return appendAttr(dst, a)
}

// AppendDirent appends an entry of a directory; ok is false, and dst as it was, if it would be longer than limit then.
// Next is where reading goes on behind it. The type is that of a mode.
func AppendDirent(dst []byte, limit int, name string, number, next uint64, mode uint32) (_ []byte, ok bool) {
	if len(dst)+direntLen(name) > limit {
		return dst, false
	}
	return appendDirent(dst, name, number, next, mode), true
}

// AppendDirentPlus is AppendDirent for Readdirplus, with what AppendEntry would say. For node 0 the kernel will ask when it
// wants to know.
func AppendDirentPlus(dst []byte, limit int, name string, number, next uint64, mode uint32, node uint64, a *Attr, v Valid) (_ []byte, ok bool) {
	if len(dst)+entrySize+direntLen(name) > limit {
		return dst, false
	}
	return appendDirent(AppendEntry(dst, node, a, v), name, number, next, mode), true
}

func direntLen(name string) int { return (direntSize + len(name) + 7) &^ 7 }

func appendDirent(dst []byte, name string, number, next uint64, mode uint32) []byte {
	dst = order.AppendUint64(dst, number)
	dst = order.AppendUint64(dst, next)
	dst = order.AppendUint32(dst, uint32(len(name)))
	dst = order.AppendUint32(dst, mode>>12&0xf)
	dst = append(dst, name...)
	var zero [8]byte
	return append(dst, zero[:direntLen(name)-direntSize-len(name)]...)
}

// InitReply is the answer to Init.
type InitReply struct {
	Minor         uint32
	MaxReadahead  uint32
	Flags         uint32
	MaxBackground uint16
	MaxWrite      uint32
	MaxPages      uint16
}

// AppendInit appends the reply to Init.
func AppendInit(dst []byte, r *InitReply) []byte {
	var b [initOutSize]byte
	order.PutUint32(b[0:], Major)
	order.PutUint32(b[4:], r.Minor)
	order.PutUint32(b[8:], r.MaxReadahead)
	order.PutUint32(b[12:], r.Flags)
	order.PutUint16(b[16:], r.MaxBackground)
	order.PutUint16(b[18:], uint16(uint32(r.MaxBackground)*3/4))
	order.PutUint32(b[20:], r.MaxWrite)
	order.PutUint32(b[24:], 1) // time granularity
	order.PutUint16(b[28:], r.MaxPages)
	return append(dst, b[:]...)
}

// Statfs is the reply to Statfs.
type Statfs struct {
	Blocks  uint64
	Files   uint64
	Block   uint32
	NameLen uint32
}

// AppendStatfs appends the reply to Statfs. Nothing is free.
func AppendStatfs(dst []byte, s *Statfs) []byte {
	var b [statfsOutSize]byte
	order.PutUint64(b[0:], s.Blocks)
	order.PutUint64(b[24:], s.Files)
	order.PutUint32(b[40:], s.Block)
	order.PutUint32(b[44:], s.NameLen)
	order.PutUint32(b[48:], s.Block)
	return append(dst, b[:]...)
}

// AppendXattrSize appends the reply to a Getxattr or Listxattr that asked for a size.
func AppendXattrSize(dst []byte, n int) []byte {
	dst = order.AppendUint32(dst, uint32(min(n, math.MaxInt32)))
	return order.AppendUint32(dst, 0)
}
