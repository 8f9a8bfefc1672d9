package squashfs

import (
	"slices"
	"sync"
)

// fragmentShelf keeps the few fragment blocks that files are being written
// from, in buffers that are used again and again: the small files of a
// directory mostly lie in one block, or in neighbours. Images that have them
// scattered are known by blocks that come back, and get a longer shelf.
type fragmentShelf struct {
	r   *Reader
	max int // blocks

	mu     sync.Mutex
	blocks []*shelvedFragment
	room   int
	clock  int64
	known  []uint64 // bit i: fragment i has been here
}

// shelvedFragment is a decoded fragment block.
type shelvedFragment struct {
	index uint32
	data  []byte
	err   error
	buf   []byte
	ready chan struct{} // closed when data or err is set
	users int
	used  int64 // clock of the last use
}

// maxShelf bounds what is searched for each file.
const maxShelf = 256

func newFragmentShelf(r *Reader, workers int) *fragmentShelf {
	room := workers + 2
	fit := int(r.dataCache.limit() / int64(r.sb.BlockSize))
	return &fragmentShelf{r: r, room: room, max: max(room, min(fit, maxShelf))}
}

// take returns fragment block i, which must be put back.
func (s *fragmentShelf) take(i uint32) (*shelvedFragment, error) {
	f, found := s.find(i)
	if !found {
		var b blockWord
		if b, f.err = s.r.fragmentWord(i); f.err == nil {
			var n int
			n, f.err = s.r.readFragment(f.buf, b)
			f.data = f.buf[:n]
		}
		close(f.ready)
	}
	<-f.ready
	if f.err != nil {
		s.putBack(f)
		return nil, f.err
	}
	return f, nil
}

// find returns the place of fragment i on the shelf, and whether somebody has
// put it there or is about to.
func (s *fragmentShelf) find(i uint32) (f *shelvedFragment, found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock++
	for _, f := range s.blocks {
		if f.index == i {
			f.users++
			f.used = s.clock
			return f, true
		}
	}
	if s.comesBack(i) {
		s.room = min(2*s.room, s.max)
	}
	f = &shelvedFragment{index: i, users: 1, used: s.clock, ready: make(chan struct{})}
	if k := s.oldest(); k >= 0 && len(s.blocks) >= s.room {
		f.buf = s.blocks[k].buf
		s.blocks[k] = f
		return f, false
	}
	f.buf = make([]byte, s.r.sb.BlockSize, int(s.r.sb.BlockSize)+decodeSlack)
	s.blocks = append(s.blocks, f)
	return f, false
}

// comesBack reports whether fragment i, which is not on the shelf, has been.
func (s *fragmentShelf) comesBack(i uint32) bool {
	word, bit := int(i/64), uint64(1)<<(i%64)
	if word >= len(s.known) {
		s.known = append(s.known, make([]uint64, word+1-len(s.known))...)
	}
	before := s.known[word]&bit != 0
	s.known[word] |= bit
	return before
}

// oldest returns the block that nobody has used for the longest time, or -1.
func (s *fragmentShelf) oldest() int {
	k := -1
	for i, f := range s.blocks {
		if f.users == 0 && (k < 0 || f.used < s.blocks[k].used) {
			k = i
		}
	}
	return k
}

func (s *fragmentShelf) putBack(f *shelvedFragment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.users--; f.err != nil && f.users == 0 {
		s.blocks = slices.DeleteFunc(s.blocks, func(g *shelvedFragment) bool { return g == f })
	}
}
