package squashfs

import (
	"encoding/binary"
)

// arena keeps records of bytes one behind the other, in pieces that never move.
// An image may have millions of names, and as an allocation of its own each
// would take several times its length.
type arena struct {
	pieces [][]byte // full up to their length
	open   int      // index of the piece that records go to
}

// addr is where a record is in an arena: the number of its piece, from 1, in
// the upper half and a quarter of the offset in the lower. 0 is none.
type addr uint32

const (
	arenaAlign   = 4
	maxPiece     = arenaAlign << 16
	minPiece     = 4 << 10
	maxPieces    = 1<<16 - 1
	maxArenaSize = maxPieces * maxPiece
)

// alloc returns room for a record of n bytes.
func (a *arena) alloc(n int) (addr, []byte, error) {
	n = (n + arenaAlign - 1) &^ (arenaAlign - 1)
	i := a.open
	if len(a.pieces) == 0 || cap(a.pieces[i])-len(a.pieces[i]) < n {
		if i = len(a.pieces); i == maxPieces {
			return 0, nil, &LimitError{What: "bytes of names, link targets and block lists", Limit: maxArenaSize}
		}
		size := min(minPiece<<min(i, 16), maxPiece)
		if n <= size/4 {
			a.open = i
		} else {
			size = n // a piece of its own
		}
		a.pieces = append(a.pieces, make([]byte, 0, size))
	}
	p := a.pieces[i]
	off := len(p)
	a.pieces[i] = p[:off+n]
	return addr((i+1)<<16 | off/arenaAlign), p[off : off+n], nil
}

// at returns what is in the arena from a record on.
func (a *arena) at(x addr) []byte {
	return a.pieces[x>>16-1][int(x&0xffff)*arenaAlign:]
}

// addString keeps s and its length.
func (a *arena) addString(s string) (addr, error) {
	var size [binary.MaxVarintLen32]byte
	n := binary.PutUvarint(size[:], uint64(len(s)))
	x, b, err := a.alloc(n + len(s))
	if err == nil {
		copy(b[copy(b, size[:n]):], s)
	}
	return x, err
}

// text returns what addString has kept.
func (a *arena) text(x addr) []byte {
	b := a.at(x)
	size, n := binary.Uvarint(b)
	return b[n : n+int(size)]
}
