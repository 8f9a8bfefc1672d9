package layer

import (
	"encoding/binary"
	"io/fs"
	"maps"
	"slices"
)

// Encoder encodes entries one behind the other: what the path of one shares with the one before it takes no room.
type Encoder struct {
	path string
	time uint32
}

// Append appends an entry, which may be any.
func (c *Encoder) Append(b []byte, e *Entry) []byte {
	b = append(b, byte(e.Kind))
	shared := SharedPrefix(e.Path, c.path)
	b = binary.AppendUvarint(b, uint64(shared))
	b = appendString(b, e.Path[shared:])
	b = appendString(b, e.Link)
	b = binary.AppendUvarint(b, uint64(e.Mode))
	b = binary.AppendUvarint(b, uint64(e.UID))
	b = binary.AppendUvarint(b, uint64(e.GID))
	b = binary.AppendVarint(b, int64(e.ModTime)-int64(c.time))
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
	c.path, c.time = e.Path, e.ModTime
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// SharedPrefix is how many bytes a and b begin with in common.
func SharedPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// Decoder decodes what an Encoder has encoded, and nothing else.
type Decoder struct {
	rest  []byte
	path  []byte
	entry Entry
}

// Reset makes b, which begins with what an Encoder has encoded first, that which is decoded next.
func (d *Decoder) Reset(b []byte) { d.rest, d.path, d.entry.ModTime = b, d.path[:0], 0 }

// Next returns the next entry, which is good until the next call; what it refers to stays.
func (d *Decoder) Next() *Entry {
	d.read(true)
	return &d.entry
}

// read reads an entry. If it is not wanted, what would have to be allocated is left out.
func (d *Decoder) read(wanted bool) {
	e := &d.entry
	e.Kind = Kind(d.rest[0])
	d.rest = d.rest[1:]
	shared := d.uint()
	d.path = append(d.path[:shared], d.bytes()...)
	link := d.bytes()
	e.Mode = fs.FileMode(d.uint())
	e.UID, e.GID = uint32(d.uint()), uint32(d.uint())
	e.ModTime = uint32(int64(e.ModTime) + d.int())
	e.Size = d.int()
	e.Major, e.Minor = 0, 0
	switch e.Kind {
	case Char, Block:
		e.Major, e.Minor = uint32(d.uint()), uint32(d.uint())
	}
	e.Xattrs = nil
	for range d.uint() {
		name, value := d.bytes(), d.bytes()
		if !wanted {
			continue
		}
		if e.Xattrs == nil {
			e.Xattrs = make(map[string]string)
		}
		e.Xattrs[string(name)] = string(value)
	}
	if wanted {
		e.Path, e.Link = string(d.path), string(link)
	}
}

func (d *Decoder) uint() uint64 {
	v, n := binary.Uvarint(d.rest)
	d.rest = d.rest[n:]
	return v
}

func (d *Decoder) int() int64 {
	v, n := binary.Varint(d.rest)
	d.rest = d.rest[n:]
	return v
}

func (d *Decoder) bytes() []byte {
	n := d.uint()
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}
