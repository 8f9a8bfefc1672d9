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

// xattrSets numbers the distinct sets of attributes of entries; 0 is none. A
// set is kept in the form in which the xattr table has pairs whose values are
// all in line.
type xattrSets struct {
	index map[string]uint32
	list  []string
	buf   []byte
}

// add numbers a set that checkXattrs has passed.
func (x *xattrSets) add(set map[string]string) uint32 {
	if len(set) == 0 {
		return 0
	}
	x.buf = x.buf[:0]
	for _, name := range slices.Sorted(maps.Keys(set)) {
		prefix, rest, _ := splitXattr(name)
		x.buf = disk.AppendXattrKey(x.buf, prefix, rest)
		x.buf = disk.AppendXattrValue(x.buf, set[name])
	}
	if id, ok := x.index[string(x.buf)]; ok {
		return id
	}
	if x.index == nil {
		x.index = make(map[string]uint32)
	}
	s := string(x.buf)
	x.list = append(x.list, s)
	id := uint32(len(x.list))
	x.index[s] = id
	return id
}

// pairs yields the pairs of set id: prefix, rest of the name, value.
func (x *xattrSets) pairs(id uint32, yield func(prefix uint16, rest, value string) error) error {
	for s := x.list[id-1]; s != ""; {
		prefix := uint16(s[0]) | uint16(s[1])<<8
		n := int(s[2]) | int(s[3])<<8
		rest := s[4 : 4+n]
		s = s[4+n:]
		n = int(s[0]) | int(s[1])<<8 | int(s[2])<<16 | int(s[3])<<24
		value := s[4 : 4+n]
		s = s[4+n:]
		if err := yield(prefix, rest, value); err != nil {
			return err
		}
	}
	return nil
}

// xattrTable makes the table of the sets that are used, in the order of their
// first use. Equal values are stored once.
type xattrTable struct {
	sets  *xattrSets
	pairs *tableWriter
	ids   []byte
	count uint32
	index []uint32            // in the table, plus 1, by number in sets
	seen  map[string]disk.Ref // where a value is stored in line
	buf   []byte
}

// minSharedValue is the length from which a value is shared. A reference takes
// 8 bytes itself.
const minSharedValue = 16

func newXattrTable(sets *xattrSets, pairs *tableWriter) *xattrTable {
	return &xattrTable{sets: sets, pairs: pairs, index: make([]uint32, len(sets.list)+1), seen: make(map[string]disk.Ref)}
}

// add returns the index of a set.
func (x *xattrTable) add(set uint32) (uint32, error) {
	if set == 0 {
		return disk.NoXattr, nil
	}
	if x.index[set] > 0 {
		return x.index[set] - 1, nil
	}
	entry := disk.XattrID{Ref: x.pairs.ref()}
	err := x.sets.pairs(set, func(prefix uint16, rest, value string) error {
		entry.Count++
		n, err := x.addPair(prefix, rest, value)
		entry.Size += uint32(n)
		return err
	})
	x.ids = disk.AppendXattrID(x.ids, entry)
	x.count++
	x.index[set] = x.count
	return x.count - 1, err
}

func (x *xattrTable) addPair(prefix uint16, rest, value string) (int, error) {
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
