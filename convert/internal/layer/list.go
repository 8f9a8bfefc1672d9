package layer

import "iter"

// List is a list of entries. It takes some 40 bytes for each, because it keeps them encoded, and what the path of one shares with the
// one before only once. The zero value is empty.
//
// A list that nothing is appended to any more may be read by several goroutines, each with a Cursor of its own.
type List struct {
	chunks  [][]byte
	blocks  []blockRef
	n       int
	encoder Encoder
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
		l.encoder = Encoder{}
		l.room()
		l.blocks = append(l.blocks, blockRef{uint32(len(l.chunks) - 1), uint32(len(l.chunks[len(l.chunks)-1]))})
	}
	// A block stays in its chunk, which then grows beyond its size: large entries are rare.
	last := len(l.chunks) - 1
	l.chunks[last] = l.encoder.Append(l.chunks[last], &e)
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
			c.skip()
			if !yield(i, c.decoder.entry.Kind) {
				return
			}
		}
	}
}

// Cursor reads single entries of a list, fastest where they are in order. It is not safe for concurrent use.
type Cursor struct {
	List *List

	decoder Decoder
	next    int // number of the entry that is decoded next; 0 if there is none
}

// At returns the i-th entry, which is good until the next call; what it refers to stays.
func (c *Cursor) At(i int) *Entry {
	c.seek(i)
	c.next++
	return c.decoder.Next()
}

// seek makes the i-th entry the next to be read.
func (c *Cursor) seek(i int) {
	if c.next == 0 || i < c.next || i/listBlock != (c.next-1)/listBlock {
		ref := c.List.blocks[i/listBlock]
		c.decoder.Reset(c.List.chunks[ref.chunk][ref.offset:])
		c.next = i / listBlock * listBlock
	}
	for c.next < i {
		c.skip()
	}
}

func (c *Cursor) skip() {
	c.next++
	c.decoder.read(false)
}
