package mount

import (
	"sync"

	"hpcimg/squashfs"
)

// blockCache has a fixed number of slots for decoded blocks, in shards, each of which reuses the slot that was used longest ago.
// Blocks lie outside the heap: a collector that let it double would take as much memory again. Requests for one block at
// the same time decode it once, and nobody holds a lock meanwhile.
type blockCache struct {
	shards []blockShard
	slots  int
	arena  *arena
	decode func(dst []byte, b squashfs.Block) (int, error)
	size   int // of a block
}

type blockShard struct {
	mu      sync.Mutex
	entries map[squashfs.Block]*block
	ring    block // ring.next was used last
	cache   *blockCache
}

// block is a slot and what is in it.
type block struct {
	shard      *blockShard // nil if it belongs to no cache
	prev, next *block
	key        squashfs.Block
	users      int
	ready      chan struct{} // closed when data or err is set
	buf        []byte
	data       []byte
	err        error
}

const (
	// slack is the room behind a block that decoders may use as scratch space.
	slack = 64
	// slotsPerShard keeps a few blocks in use from making a shard unable to keep any.
	slotsPerShard  = 16
	maxBlockShards = 16
)

func newBlockCache(limit int64, blockSize int, decode func([]byte, squashfs.Block) (int, error)) *blockCache {
	slots := int(max(limit/int64(blockSize+slack), slotsPerShard))
	shards := 1
	for shards < maxBlockShards && slots/(2*shards) >= slotsPerShard {
		shards *= 2
	}
	c := &blockCache{shards: make([]blockShard, shards), decode: decode, size: blockSize}
	c.slots = slots / shards * shards
	c.arena = newArena(c.slots * (blockSize + slack))
	for i := range c.shards {
		s := &c.shards[i]
		s.cache = c
		s.entries = make(map[squashfs.Block]*block)
		s.ring.prev, s.ring.next = &s.ring, &s.ring
	}
	blocks := make([]block, c.slots)
	// Slots go to the shards by turns, so that what is used first lies together.
	for i := range c.slots {
		s := &c.shards[i%shards]
		at := i * (blockSize + slack)
		b := &blocks[i]
		b.shard, b.buf = s, c.arena.data[at:at+blockSize:at+blockSize+slack]
		s.link(b)
	}
	return c
}

// capacity is how many blocks the cache holds.
func (c *blockCache) capacity() int { return c.slots }

func (c *blockCache) shard(b squashfs.Block) *blockShard {
	h := uint64(b.Offset) * 0x9e3779b97f4a7c15
	return &c.shards[h>>40%uint64(len(c.shards))]
}

// has reports whether b is there or being decoded.
func (c *blockCache) has(b squashfs.Block) bool {
	s := c.shard(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries[b] != nil
}

// acquire returns the decoded block b, which stays as it is until it is released. It calls slow first if that takes long.
func (c *blockCache) acquire(key squashfs.Block, slow func()) (*block, error) {
	s := c.shard(key)
	s.mu.Lock()
	if b := s.entries[key]; b != nil {
		b.users++
		b.unlink()
		s.link(b)
		s.mu.Unlock()
		select {
		case <-b.ready:
		default:
			slow()
			<-b.ready
		}
		if b.err != nil {
			err := b.err
			b.release()
			return nil, err
		}
		return b, nil
	}
	b := s.take()
	if b == nil { // all in use, by as many readers
		s.mu.Unlock()
		slow()
		b = &block{buf: make([]byte, c.size, c.size+slack)}
		n, err := c.decode(b.buf, key)
		b.data = b.buf[:n]
		return b, err
	}
	b.key, b.users, b.ready = key, 1, make(chan struct{})
	s.entries[key] = b
	s.mu.Unlock()

	slow()
	n, err := c.decode(b.buf, key)
	b.data, b.err = b.buf[:n], err
	if err != nil {
		s.mu.Lock()
		delete(s.entries, key)
		s.mu.Unlock()
	}
	close(b.ready)
	if err != nil {
		b.release()
		return nil, err
	}
	return b, nil
}

// take returns the slot that was used longest ago and is not in use, at the front of the ring, or nil.
func (s *blockShard) take() *block {
	for b := s.ring.prev; b != &s.ring; b = b.prev {
		if b.users > 0 {
			continue
		}
		if s.entries[b.key] == b {
			delete(s.entries, b.key)
		}
		b.unlink()
		s.link(b)
		return b
	}
	return nil
}

func (s *blockShard) link(b *block) {
	b.prev, b.next = &s.ring, s.ring.next
	b.prev.next, b.next.prev = b, b
}

func (b *block) unlink() { b.prev.next, b.next.prev = b.next, b.prev }

// release ends the use of a block that acquire returned.
func (b *block) release() {
	if b.shard == nil {
		return
	}
	b.shard.mu.Lock()
	b.users--
	b.shard.mu.Unlock()
}
