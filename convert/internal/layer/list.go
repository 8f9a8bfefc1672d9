package layer

import (
	"encoding/binary"
	"io/fs"
	"iter"
	"maps"
	"slices"
)

// List is a list of entries. It takes some 40 bytes for each, because it keeps them encoded, and what the path of one shares with the
// one before only once. The zero value is empty.
//
// A list that nothing is appended to any more may be read by several goroutines, each with a Cursor of its own.
type List struct {
	chunks [][]byte
	blocks []blockRef
	n      int
	last   string // path of the last entry
	time   uint32 // and its ModTime
}

// blockRef is where a block of entries begins, the first of which needs none before it.
type blockRef struct{ chunk, offset uint32 }

const (
	listBlock = 16
	listChunk = 64 << 10
)

// ListOf returns a list of the given entries.
func ListOf(entries ...Entry) *List {
	l := new(List)
	for i := range entries {
		l.Append(entries[i])
	}
	return l
}

// Append adds an entry.
func (l *List) Append(e Entry) {
	if l.n%listBlock == 0 {
		l.last, l.time = "", 0
		l.room()
		l.blocks = append(l.blocks, blockRef{uint32(len(l.chunks) - 1), uint32(len(l.chunks[len(l.chunks)-1]))})
	}
	// A block stays in its chunk, which then grows beyond its size: large entries are rare.
	last := len(l.chunks) - 1
	l.chunks[last] = l.encode(l.chunks[last], &e)
	l.last, l.time = e.Path, e.ModTime
	l.n++
}

// room makes sure that there is a chunk for another block.
func (l *List) room() {
	const reserve = listBlock * 160
	last := len(l.chunks) - 1
	switch {
	case last < 0:
		l.chunks = append(l.chunks, nil) // most layers are small: let the first one grow
	case len(l.chunks[last])+reserve > listChunk:
		l.chunks = append(l.chunks, make([]byte, 0, listChunk))
	}
}

func (l *List) encode(b []byte, e *Entry) []byte {
	b = append(b, byte(e.Kind))
	shared := sharedPrefix(e.Path, l.last)
	b = binary.AppendUvarint(b, uint64(shared))
	b = appendString(b, e.Path[shared:])
	b = appendString(b, e.Link)
	b = binary.AppendUvarint(b, uint64(e.Mode))
	b = binary.AppendUvarint(b, uint64(e.UID))
	b = binary.AppendUvarint(b, uint64(e.GID))
	b = binary.AppendVarint(b, int64(e.ModTime)-int64(l.time))
	b = binary.AppendVarint(b, e.Size)
	switch e.Kind {
	case Char, Block:
		b = binary.AppendUvarint(b, uint64(e.Major))
		b = binary.AppendUvarint(b, uint64(e.Minor))
	}
	b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
	for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
		b = appendString(b, name)
		b = appendString(b, e.Xattrs[name])
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func sharedPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// Len returns the number of entries.
func (l *List) Len() int { return l.n }

// All yields the entries in order. The pointer is good until the next is asked for; what it refers to stays.
func (l *List) All() iter.Seq2[int, *Entry] {
	return func(yield func(int, *Entry) bool) {
		c := Cursor{List: l}
		for i := range l.n {
			if !yield(i, c.At(i)) {
				return
			}
		}
	}
}

// Kinds yields the kinds of the entries in order, for a fraction of what All takes.
func (l *List) Kinds() iter.Seq2[int, Kind] {
	return func(yield func(int, Kind) bool) {
		c := Cursor{List: l}
		for i := range l.n {
			c.seek(i)
			c.read(false)
			if !yield(i, c.entry.Kind) {
				return
			}
		}
	}
}

// Cursor reads single entries of a list, fastest where they are in order. It is not safe for concurrent use.
type Cursor struct {
	List *List

	rest  []byte // behind the entry
	next  int    // number of the entry that rest begins with; 0 if there is none
	path  []byte
	entry Entry
}

// At returns the i-th entry, which is good until the next call; what it refers to stays.
func (c *Cursor) At(i int) *Entry {
	c.seek(i)
	c.read(true)
	return &c.entry
}

// seek makes the i-th entry the next to be read.
func (c *Cursor) seek(i int) {
	if c.next == 0 || i < c.next || i/listBlock != (c.next-1)/listBlock {
		ref := c.List.blocks[i/listBlock]
		c.rest = c.List.chunks[ref.chunk][ref.offset:]
		c.next = i / listBlock * listBlock
		c.path, c.entry.ModTime = c.path[:0], 0
	}
	for c.next < i {
		c.read(false)
	}
}

// read reads an entry. If it is not wanted, what would have to be allocated is left out.
func (c *Cursor) read(wanted bool) {
	e := &c.entry
	e.Kind = Kind(c.rest[0])
	c.rest = c.rest[1:]
	shared := c.uint()
	c.path = append(c.path[:shared], c.bytes()...)
	link := c.bytes()
	e.Mode = fs.FileMode(c.uint())
	e.UID, e.GID = uint32(c.uint()), uint32(c.uint())
	e.ModTime = uint32(int64(e.ModTime) + c.int())
	e.Size = c.int()
	e.Major, e.Minor = 0, 0
	switch e.Kind {
	case Char, Block:
		e.Major, e.Minor = uint32(c.uint()), uint32(c.uint())
	}
	e.Xattrs = nil
	for range c.uint() {
		name, value := c.bytes(), c.bytes()
		if !wanted {
			continue
		}
		if e.Xattrs == nil {
			e.Xattrs = make(map[string]string)
		}
		e.Xattrs[string(name)] = string(value)
	}
	c.next++
	if wanted {
		e.Path, e.Link = string(c.path), string(link)
	}
}

func (c *Cursor) uint() uint64 {
	v, n := binary.Uvarint(c.rest)
	c.rest = c.rest[n:]
	return v
}

func (c *Cursor) int() int64 {
	v, n := binary.Varint(c.rest)
	c.rest = c.rest[n:]
	return v
}

func (c *Cursor) bytes() []byte {
	n := c.uint()
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}
