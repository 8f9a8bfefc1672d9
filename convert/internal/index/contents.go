package index

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"

	"hpcimg/squashfs"
)

// Contents has the contents of a layer's files by number of their entries, without their digests. It takes some 12 bytes for each, and 4 for
// entries that have none. The zero value is empty; what is not set is absent.
type Contents struct {
	at     []uint32 // where they are in chunks, plus 1
	chunks [][]byte
	err    error
}

const contentsChunk = 64 << 10

// ContentsOf returns the given contents; those that are nil are absent.
func ContentsOf(all ...*squashfs.Content) *Contents {
	x := new(Contents)
	for i, c := range all {
		x.Grow(i + 1)
		if c != nil {
			x.Set(i, c)
		}
	}
	return x
}

// Len returns the number of entries.
func (x *Contents) Len() int { return len(x.at) }

// Grow makes room for so many entries.
func (x *Contents) Grow(n int) {
	for len(x.at) < n {
		x.at = append(x.at, 0)
	}
}

// Err returns the first error of Set.
func (x *Contents) Err() error { return x.err }

// Set sets the contents of an entry that has none so far.
func (x *Contents) Set(i int, c *squashfs.Content) {
	const largest = 4*binary.MaxVarintLen64 + binary.MaxVarintLen32
	need := largest + binary.MaxVarintLen32*len(c.Blocks)
	last := len(x.chunks) - 1
	if last < 0 || len(x.chunks[last]) >= contentsChunk || cap(x.chunks[last])-len(x.chunks[last]) < need {
		x.chunks = append(x.chunks, make([]byte, 0, max(need, contentsChunk)))
		last++
	}
	b := x.chunks[last]
	// A record begins in the first 64 KiB of its chunk: a larger chunk has but one.
	at := uint64(last)*contentsChunk + uint64(len(b)) + 1
	if at > math.MaxUint32 {
		if x.err == nil {
			x.err = fmt.Errorf("%w: files of one layer have more than 4 GiB of block sizes", squashfs.ErrLimit)
		}
		return
	}
	x.at[i] = uint32(at)
	x.chunks[last] = AppendContent(b, c)
}

// Has reports whether an entry has contents.
func (x *Contents) Has(i int) bool { return x.at[i] != 0 }

// At returns the contents of an entry, or nil.
func (x *Contents) At(i int) *squashfs.Content {
	if x.at[i] == 0 {
		return nil
	}
	at := x.at[i] - 1
	b := x.chunks[at/contentsChunk][at%contentsChunk:]
	c, _ := CutContent(b)
	return c
}

// All yields the contents of all entries, nil for those that have none.
func (x *Contents) All() iter.Seq2[int, *squashfs.Content] {
	return func(yield func(int, *squashfs.Content) bool) {
		for i := range x.at {
			if !yield(i, x.At(i)) {
				return
			}
		}
	}
}

// AppendContent appends what is to be known of c, without its digest.
func AppendContent(b []byte, c *squashfs.Content) []byte {
	b = binary.AppendUvarint(b, uint64(c.Fragment+1))
	b = binary.AppendUvarint(b, uint64(c.Size))
	if c.Fragment >= 0 {
		b = binary.AppendUvarint(b, uint64(c.FragmentOffset))
	}
	b = binary.AppendUvarint(b, uint64(len(c.Blocks)))
	if len(c.Blocks) > 0 {
		b = binary.AppendUvarint(b, uint64(c.Start))
	}
	for _, word := range c.Blocks {
		b = binary.AppendUvarint(b, uint64(word))
	}
	return b
}

// CutContent takes from b what AppendContent has appended, and nothing else.
func CutContent(b []byte) (c *squashfs.Content, rest []byte) {
	next := func() uint64 {
		v, n := binary.Uvarint(b)
		b = b[n:]
		return v
	}
	c = &squashfs.Content{Fragment: int32(next()) - 1, Size: int64(next())}
	if c.Fragment >= 0 {
		c.FragmentOffset = uint32(next())
	}
	if n := next(); n > 0 {
		c.Start = int64(next())
		c.Blocks = make([]uint32, n)
	}
	for i := range c.Blocks {
		c.Blocks[i] = uint32(next())
	}
	return c, b
}
