package fork

import (
	"fmt"
	"strconv"
	"strings"
)

// FD names a descriptor that a table opens or is given.
type FD string

// CWD is AT_FDCWD: relative paths start at the working directory.
const CWD FD = "AT_FDCWD"

func (fd FD) String() string {
	if fd == CWD {
		return string(fd)
	}
	return "$" + string(fd)
}

// A Path is a path in a call, which may lead through a descriptor of the table.
type Path struct {
	fd     FD
	number bool
	rel    string
}

// At is the path rel as it stands; an empty one is a null pointer.
func At(rel string) Path { return Path{rel: rel} }

// Through is the file that fd stands for: the magic link /proc/self/fd/N, which is no name that anybody could replace.
func Through(fd FD) Path { return Path{fd: fd} }

// Number is the number of fd in decimal, for options of a mount.
func Number(fd FD) Path { return Path{fd: fd, number: true} }

func (p Path) String() string {
	switch {
	case p.number:
		return p.fd.String()
	case p.fd != "":
		return "/proc/self/fd/" + p.fd.String()
	case p.rel == "":
		return "NULL"
	}
	return strconv.Quote(p.rel)
}

type argKind uint8

const (
	argWord    argKind = iota // a number
	argFD                     // the number of a descriptor
	argString                 // a pointer to a string that ends in NUL
	argPath                   // the same, of a Path
	argBytes                  // a pointer to a structure or buffer
	argStrings                // a pointer to an array of strings that ends in a null pointer
	argMessage                // a pointer to a message that carries a descriptor
	argFilter                 // a pointer to a program of BPF
	argPaths                  // a pointer to a string made of several parts, some of them descriptors
)

type arg struct {
	kind  argKind
	word  uintptr
	fd    FD
	str   string
	parts []Path
	data  []byte
	list  []string
	text  string // how it is printed, where the value does not say
}

func (a arg) String() string {
	if a.text != "" {
		return a.text
	}
	switch a.kind {
	case argWord:
		return strconv.FormatUint(uint64(a.word), 10)
	case argFD:
		return a.fd.String()
	case argString:
		return strconv.Quote(a.str)
	case argPath:
		return a.parts[0].String()
	case argPaths:
		var b strings.Builder
		for _, p := range a.parts {
			if p.fd != "" {
				b.WriteString(p.String())
			} else {
				b.WriteString(p.rel)
			}
		}
		return `"` + b.String() + `"`
	case argStrings:
		quoted := make([]string, len(a.list))
		for i, s := range a.list {
			quoted[i] = strconv.Quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	return fmt.Sprintf("%d bytes", len(a.data))
}

func word[T ~int | ~uint | ~int64 | ~uint64 | ~uint32 | ~uintptr](v T, text string) arg {
	return arg{kind: argWord, word: uintptr(v), text: text}
}

func fdArg(fd FD) arg { return arg{kind: argFD, fd: fd} }

func str(s string) arg { return arg{kind: argString, str: s} }

func optional(s string) arg {
	if s == "" {
		return arg{kind: argWord, text: "NULL"}
	}
	return str(s)
}

func pathArg(p Path) arg {
	if p == (Path{}) {
		return arg{kind: argWord, text: "NULL"}
	}
	return arg{kind: argPath, parts: []Path{p}}
}

func buffer(data []byte, text string) arg { return arg{kind: argBytes, data: data, text: text} }

// flag is a bit, or a group of bits, and its name.
type flag struct {
	bits uint64
	name string
}

// format writes bits by name: "A|B|0x40".
func format(bits uint64, names []flag) string {
	var parts []string
	for _, f := range names {
		if f.bits != 0 && bits&f.bits == f.bits {
			parts = append(parts, f.name)
			bits &^= f.bits
		}
	}
	if bits != 0 || len(parts) == 0 {
		parts = append(parts, hex(bits))
	}
	return strings.Join(parts, "|")
}

func hex(v uint64) string {
	if v == 0 {
		return "0"
	}
	return "0x" + strconv.FormatUint(v, 16)
}
