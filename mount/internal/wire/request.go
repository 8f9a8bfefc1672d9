package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// Opcodes of requests.
const (
	OpLookup      = 1
	OpForget      = 2
	OpGetattr     = 3
	OpReadlink    = 5
	OpOpen        = 14
	OpRead        = 15
	OpStatfs      = 17
	OpRelease     = 18
	OpFsync       = 20
	OpGetxattr    = 22
	OpListxattr   = 23
	OpFlush       = 25
	OpInit        = 26
	OpOpendir     = 27
	OpReaddir     = 28
	OpReleasedir  = 29
	OpFsyncdir    = 30
	OpAccess      = 34
	OpInterrupt   = 36
	OpBmap        = 37
	OpDestroy     = 38
	OpIoctl       = 39
	OpPoll        = 40
	OpBatchForget = 42
	OpReaddirplus = 44
	OpLseek       = 46
	OpStatx       = 52
)

// Requests that would change something.
const (
	opSetattr       = 4
	opSymlink       = 6
	opMknod         = 8
	opMkdir         = 9
	opUnlink        = 10
	opRmdir         = 11
	opRename        = 12
	opLink          = 13
	opWrite         = 16
	opSetxattr      = 21
	opRemovexattr   = 24
	opCreate        = 35
	opFallocate     = 43
	opRename2       = 45
	opCopyFileRange = 47
	opTmpfile       = 51
)

// Sizes of messages.
const (
	InHeaderSize  = 40
	OutHeaderSize = 16
	// RequestSize is the size of the buffer that requests are read into. Kernels want at least that much, and send nothing longer
	// to a file system that takes no writes.
	RequestSize = 8192
)

// ErrRequest says that a message is not a request of the protocol.
var ErrRequest = errors.New("wire: malformed request")

// Request is a request whose header has been read. Body points into the message.
type Request struct {
	Op     uint32
	Unique uint64
	Node   uint64
	UID    uint32
	GID    uint32
	PID    uint32
	Body   []byte
}

var order = binary.NativeEndian

// Parse reads the header of a message.
func Parse(msg []byte) (Request, error) {
	if len(msg) < InHeaderSize || uint64(order.Uint32(msg)) != uint64(len(msg)) {
		return Request{}, ErrRequest
	}
	return Request{
		Op:     order.Uint32(msg[4:]),
		Unique: order.Uint64(msg[8:]),
		Node:   order.Uint64(msg[16:]),
		UID:    order.Uint32(msg[24:]),
		GID:    order.Uint32(msg[28:]),
		PID:    order.Uint32(msg[32:]),
		Body:   msg[InHeaderSize:],
	}, nil
}

// Changes reports whether the request would change the file system.
func (r *Request) Changes() bool {
	switch r.Op {
	case opSetattr, opSymlink, opMknod, opMkdir, opUnlink, opRmdir, opRename, opLink, opWrite, opSetxattr, opRemovexattr,
		opCreate, opFallocate, opRename2, opCopyFileRange, opTmpfile:
		return true
	}
	return false
}

// NoReply reports whether the kernel waits for no reply.
func (r *Request) NoReply() bool { return r.Op == OpForget || r.Op == OpBatchForget }

// Name reads the body of a Lookup, or what follows the first n bytes of another body: a name that ends with a NUL.
func (r *Request) Name(n int) (string, error) {
	if len(r.Body) < n {
		return "", ErrRequest
	}
	i := bytes.IndexByte(r.Body[n:], 0)
	if i < 0 {
		return "", ErrRequest
	}
	return string(r.Body[n : n+i]), nil
}

// Range is the part of a file or directory that a Read, Readdir or Readdirplus asks for.
type Range struct {
	Handle uint64
	Offset uint64
	Size   uint32
}

// Range reads the body of a Read, Readdir or Readdirplus.
func (r *Request) Range() (Range, error) {
	if len(r.Body) < 24 {
		return Range{}, ErrRequest
	}
	return Range{order.Uint64(r.Body), order.Uint64(r.Body[8:]), order.Uint32(r.Body[16:])}, nil
}

// XattrSizeLen is what precedes the name in the body of a Getxattr.
const XattrSizeLen = 8

// XattrSize reads how many bytes a Getxattr or Listxattr has room for; 0 asks for the size.
func (r *Request) XattrSize() (uint32, error) {
	if len(r.Body) < XattrSizeLen {
		return 0, ErrRequest
	}
	return order.Uint32(r.Body), nil
}

// Init is what the kernel offers.
type Init struct {
	Major, Minor uint32
	MaxReadahead uint32
	Flags        uint32
}

// Init reads the body of an Init.
func (r *Request) Init() (Init, error) {
	if len(r.Body) < 16 {
		return Init{}, ErrRequest
	}
	return Init{order.Uint32(r.Body), order.Uint32(r.Body[4:]), order.Uint32(r.Body[8:]), order.Uint32(r.Body[12:])}, nil
}
