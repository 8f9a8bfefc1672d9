package fork

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawCall is a Call ready to be made: no pointer that the garbage collector knows of, no descriptor without a number.
type rawCall struct {
	nr   uintptr
	args [6]uintptr
	kind kind
	n    uintptr // kindFD: the number to give the result; kindWant: the result; kindSave: the index of the call to store it in
	// index is the number of the call for whoever wrote the table; the interpreter in memory reports it.
	index uintptr
}

// table is all that the child reads and writes.
type table struct {
	calls  []rawCall
	arena  []byte // strings, structures and buffers that args point to
	keep   []bool // descriptors that the calls use; all others up to here are closed
	clone  uintptr
	errfd  uintptr
	record [2]uint32 // index of the call that failed, error number
	mask   uint64    // signal mask of the caller
	block  uint64
	old    [4]uint64 // struct sigaction, its first word the handler
	reset  [4]uint64
	info   [16]uint64 // siginfo_t
	status uint32
}

// linker lays out the arena. Addresses are known only when it has its final size, so it runs twice over the calls.
type linker struct {
	numbers map[FD]uintptr
	arena   []byte
	base    uintptr
}

func link(calls []Call, numbers map[FD]uintptr, clone uintptr) (*table, error) {
	t := &table{calls: make([]rawCall, len(calls)), clone: clone, block: ^uint64(0)}
	l := &linker{numbers: numbers}
	for i, c := range calls {
		if c.kind != kindNoFile {
			continue
		}
		calls = slices.Clone(calls)
		lim, err := OriginalNoFile()
		if err != nil {
			return nil, err
		}
		calls[i] = Setrlimit(unix.RLIMIT_NOFILE, "RLIMIT_NOFILE", lim)
	}
	for pass := range 2 {
		if pass == 1 {
			t.arena = make([]byte, len(l.arena))
			l.base = uintptr(unsafe.Pointer(unsafe.SliceData(t.arena)))
			l.arena = l.arena[:0]
		}
		for i, c := range calls {
			raw, err := l.call(c)
			if err != nil {
				return nil, fmt.Errorf("call %d, %v: %w", i, c, err)
			}
			t.calls[i] = raw
		}
	}
	copy(t.arena, l.arena)
	return t, t.finish()
}

func (t *table) finish() error {
	save := -1
	for i := range t.calls {
		switch t.calls[i].kind {
		case kindSave:
			save = i
		case kindSaved:
			if save < 0 {
				return fmt.Errorf("call %d uses a result that no call before it saves", i)
			}
			t.calls[save].n = uintptr(i)
		case kindParent:
			t.calls[i].kind = kindWant
			if t.clone&unix.CLONE_NEWPID == 0 { // else the parent cannot be seen: 0
				t.calls[i].n = uintptr(os.Getpid())
			}
		case kindMask:
			t.calls[i].args = [6]uintptr{unix.SIG_SETMASK, uintptr(unsafe.Pointer(&t.mask)), 0, 8}
		}
	}
	return nil
}

func (l *linker) call(c Call) (rawCall, error) {
	raw := rawCall{nr: c.nr, kind: c.kind, n: c.want}
	if c.out != "" {
		n, err := l.number(c.out)
		if err != nil {
			return raw, err
		}
		raw.n = n
	}
	if len(c.args) > len(raw.args) {
		return raw, fmt.Errorf("%d arguments", len(c.args))
	}
	for i, a := range c.args {
		v, err := l.arg(a)
		if err != nil {
			return raw, err
		}
		raw.args[i] = v
	}
	return raw, nil
}

func (l *linker) arg(a arg) (uintptr, error) {
	switch a.kind {
	case argFD:
		return l.number(a.fd)
	case argString:
		return l.text(a.str)
	case argPath, argPaths:
		var s strings.Builder
		for _, p := range a.parts {
			part := p.rel
			if p.fd != "" {
				n, err := l.number(p.fd)
				if err != nil {
					return 0, err
				}
				if part = strconv.Itoa(int(n)); !p.number {
					part = "/proc/self/fd/" + part
				}
			}
			s.WriteString(part)
		}
		return l.text(s.String())
	case argBytes:
		return l.put(a.data), nil
	case argStrings:
		array := make([]byte, 0, 8*(len(a.list)+1))
		for _, s := range a.list {
			p, err := l.text(s)
			if err != nil {
				return 0, err
			}
			array = binary.NativeEndian.AppendUint64(array, uint64(p))
		}
		return l.put(binary.NativeEndian.AppendUint64(array, 0)), nil
	case argMessage:
		return l.message(a.fd)
	case argFilter: // struct sock_fprog: the number of instructions, and where they are
		header := binary.NativeEndian.AppendUint16(nil, uint16(len(a.data)/bpfInstruction))
		header = binary.NativeEndian.AppendUint64(append(header, make([]byte, 6)...), uint64(l.put(a.data)))
		return l.put(header), nil
	}
	return a.word, nil
}

// message builds a struct msghdr with one byte and one descriptor.
func (l *linker) message(fd FD) (uintptr, error) {
	n, err := l.number(fd)
	if err != nil {
		return 0, err
	}
	rights := unix.UnixRights(int(n))
	word := func(b []byte, v uintptr) []byte { return binary.NativeEndian.AppendUint64(b, uint64(v)) }
	vec := word(word(nil, l.put([]byte{0})), 1)
	header := word(word(nil, 0), 0)                      // no address
	header = word(word(header, l.put(vec)), 1)           // one buffer
	header = word(header, l.put(rights))                 // control message
	header = word(word(header, uintptr(len(rights))), 0) // its length; no flags
	return l.put(header), nil
}

func (l *linker) number(fd FD) (uintptr, error) {
	if fd == CWD {
		cwd := unix.AT_FDCWD
		return uintptr(cwd), nil
	}
	n, ok := l.numbers[fd]
	if !ok {
		return 0, fmt.Errorf("descriptor %v is opened by no call before", fd)
	}
	return n, nil
}

// text stores a string for the kernel. A NUL would cut it short there, and another file would be meant.
func (l *linker) text(s string) (uintptr, error) {
	for i := range len(s) {
		if s[i] == 0 {
			return 0, fmt.Errorf("NUL in %q: %w", s, unix.EINVAL)
		}
	}
	return l.put(append([]byte(s), 0)), nil
}

// put stores data, aligned for any structure, and returns its address.
func (l *linker) put(data []byte) uintptr {
	at := len(l.arena)
	l.arena = append(l.arena, data...)
	for len(l.arena)%8 != 0 {
		l.arena = append(l.arena, 0)
	}
	return l.base + uintptr(at)
}
