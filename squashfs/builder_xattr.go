package squashfs

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"hpcimg/squashfs/internal/disk"
)

// Limits of Linux for extended attributes.
const (
	maxXattrName  = 255
	maxXattrValue = 64 << 10
)

// XattrSupported reports whether the format has room for an extended attribute
// of that name: it knows the namespaces user, trusted and security only. ACLs
// are in the namespace system.
func XattrSupported(name string) bool {
	_, _, ok := splitXattr(name)
	return ok
}

func splitXattr(name string) (prefix uint16, rest string, ok bool) {
	for p := uint16(disk.XattrUser); p <= disk.XattrSecurity; p++ {
		text, _ := disk.XattrPrefix(p)
		if rest, ok := strings.CutPrefix(name, text); ok {
			return p, rest, rest != ""
		}
	}
	return 0, "", false
}

func checkXattrs(set map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(set)) {
		switch {
		case !XattrSupported(name):
			return fmt.Errorf("%w: xattr %q", errors.ErrUnsupported, name)
		case strings.IndexByte(name, 0) >= 0:
			return fmt.Errorf("%w: NUL in the name of an xattr", fs.ErrInvalid)
		case len(name) > maxXattrName:
			return &LimitError{What: "bytes in the name of an xattr", Limit: maxXattrName}
		case len(set[name]) > maxXattrValue:
			return &LimitError{What: "bytes in the value of an xattr", Limit: maxXattrValue}
		}
	}
	return nil
}

// xattrTable collects sets of attributes. Equal sets are stored once, and so
// are equal values.
type xattrTable struct {
	pairs *tableWriter
	ids   []byte
	count uint32
	sets  map[string]uint32   // by encoding
	seen  map[string]disk.Ref // where a value is stored in line
	buf   []byte
}

// minSharedValue is the length from which a value is shared. A reference takes
// 8 bytes itself.
const minSharedValue = 16

func newXattrTable(pairs *tableWriter) *xattrTable {
	return &xattrTable{pairs: pairs, sets: make(map[string]uint32), seen: make(map[string]disk.Ref)}
}

// add returns the index of a set that checkXattrs has passed.
func (x *xattrTable) add(set map[string]string) (uint32, error) {
	if len(set) == 0 {
		return disk.NoXattr, nil
	}
	names := slices.Sorted(maps.Keys(set))
	x.buf = x.buf[:0]
	for _, name := range names {
		prefix, rest, _ := splitXattr(name)
		x.buf = disk.AppendXattrKey(x.buf, prefix, rest)
		x.buf = disk.AppendXattrValue(x.buf, set[name])
	}
	if id, ok := x.sets[string(x.buf)]; ok {
		return id, nil
	}
	id := x.count
	x.sets[string(x.buf)] = id
	x.count++
	entry := disk.XattrID{Ref: x.pairs.ref(), Count: uint32(len(names))}
	for _, name := range names {
		n, err := x.addPair(name, set[name])
		if err != nil {
			return 0, err
		}
		entry.Size += uint32(n)
	}
	x.ids = disk.AppendXattrID(x.ids, entry)
	return id, nil
}

func (x *xattrTable) addPair(name, value string) (int, error) {
	prefix, rest, _ := splitXattr(name)
	ref, shared := x.seen[value]
	if shared {
		prefix |= disk.XattrOutOfLine
	}
	x.buf = disk.AppendXattrKey(x.buf[:0], prefix, rest)
	n := len(x.buf)
	if err := x.pairs.add(x.buf); err != nil {
		return 0, err
	}
	if shared {
		x.buf = disk.AppendXattrValueRef(x.buf[:0], ref)
	} else {
		if len(value) >= minSharedValue {
			x.seen[value] = x.pairs.ref()
		}
		x.buf = disk.AppendXattrValue(x.buf[:0], value)
	}
	return n + len(x.buf), x.pairs.add(x.buf)
}
