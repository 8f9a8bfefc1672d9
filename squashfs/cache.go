package squashfs

import "sync"

// cacheKey identifies a decoded block. The size word and the decoded size
// belong to it because damaged images may describe one offset in two ways.
type cacheKey struct {
	offset int64
	word   uint32
	size   uint32
}

// cacheBlock is a decoded block; data is never written to once it is cached.
type cacheBlock struct {
	data []byte
	next int64 // offset behind the stored block
}

// blockCache is a sharded cache of decoded blocks, bounded in bytes, that
// evicts the least recently used. Concurrent requests for one block decode it
// once.
type blockCache struct {
	shards []cacheShard
}

type cacheShard struct {
	mu      sync.Mutex
	entries map[cacheKey]*cacheEntry
	head    cacheEntry // ring of finished entries: head.next is the newest
	size    int64
	limit   int64
}

type cacheEntry struct {
	key        cacheKey
	block      cacheBlock
	err        error
	ready      chan struct{} // closed when block or err is set
	prev, next *cacheEntry   // nil while decoding
}

// maxCacheShards bounds lock contention, not correctness.
const maxCacheShards = 16

// newBlockCache returns a cache of limit bytes for blocks of up to blockSize.
// Each shard has room for several blocks, else hashing would evict hot ones.
func newBlockCache(limit, blockSize int64) *blockCache {
	n := 1
	for n < maxCacheShards && limit/int64(2*n) >= 8*blockSize {
		n *= 2
	}
	c := &blockCache{shards: make([]cacheShard, n)}
	for i := range c.shards {
		s := &c.shards[i]
		s.entries = make(map[cacheKey]*cacheEntry)
		s.head.prev, s.head.next = &s.head, &s.head
		s.limit = limit / int64(n)
	}
	return c
}

func (c *blockCache) shard(k cacheKey) *cacheShard {
	h := uint64(k.offset) * 0x9e3779b97f4a7c15
	return &c.shards[(h>>40)%uint64(len(c.shards))]
}

// limit returns how many bytes the cache may hold.
func (c *blockCache) limit() int64 { return c.shards[0].limit * int64(len(c.shards)) }

// fetch returns the block of key k, from load if it is not cached. Errors are
// handed to everyone who waited, and not kept.
func (c *blockCache) fetch(k cacheKey, load func() (cacheBlock, error)) (cacheBlock, error) {
	s := c.shard(k)
	s.mu.Lock()
	if e, ok := s.entries[k]; ok {
		if e.next != nil {
			s.unlink(e)
			s.link(e)
			s.mu.Unlock()
			return e.block, nil
		}
		s.mu.Unlock()
		<-e.ready
		return e.block, e.err
	}
	e := &cacheEntry{key: k, ready: make(chan struct{})}
	s.entries[k] = e
	s.mu.Unlock()

	block, err := load()

	s.mu.Lock()
	e.block, e.err = block, err
	if err != nil {
		delete(s.entries, k)
	} else {
		s.link(e)
		s.size += cacheCost(e)
		s.evict()
	}
	s.mu.Unlock()
	close(e.ready)
	return block, err
}

// cacheCost is what an entry counts against the limit: its data and about
// what the bookkeeping takes, so that tiny blocks are not free.
func cacheCost(e *cacheEntry) int64 { return int64(cap(e.block.data)) + 256 }

func (s *cacheShard) evict() {
	for s.size > s.limit && s.head.prev != &s.head {
		e := s.head.prev
		s.unlink(e)
		s.size -= cacheCost(e)
		delete(s.entries, e.key)
	}
}

func (s *cacheShard) link(e *cacheEntry) {
	e.prev, e.next = &s.head, s.head.next
	e.prev.next, e.next.prev = e, e
}

func (s *cacheShard) unlink(e *cacheEntry) {
	e.prev.next, e.next.prev = e.next, e.prev
	e.prev, e.next = nil, nil
}
