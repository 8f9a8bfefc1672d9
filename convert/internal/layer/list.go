package layer

import "iter"

// List is a list of entries that grows without moving them, so that it takes no more memory than it needs and pointers into it
// stay good. The zero value is empty.
type List struct {
	chunks [][]Entry
}

const listChunk = 1024

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
	last := len(l.chunks) - 1
	if last < 0 || len(l.chunks[last]) == listChunk {
		size := listChunk
		if last < 0 {
			size = 0 // most layers are small: let the first one grow
		}
		l.chunks = append(l.chunks, make([]Entry, 0, size))
		last++
	}
	l.chunks[last] = append(l.chunks[last], e)
}

// Len returns the number of entries.
func (l *List) Len() int {
	last := len(l.chunks) - 1
	if last < 0 {
		return 0
	}
	return last*listChunk + len(l.chunks[last])
}

// At returns the i-th entry. The pointer stays good once nothing is appended to the list any more.
func (l *List) At(i int) *Entry { return &l.chunks[i/listChunk][i%listChunk] }

// All yields the entries in order.
func (l *List) All() iter.Seq2[int, *Entry] {
	return func(yield func(int, *Entry) bool) {
		for c, chunk := range l.chunks {
			for i := range chunk {
				if !yield(c*listChunk+i, &chunk[i]) {
					return
				}
			}
		}
	}
}
