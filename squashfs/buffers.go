package squashfs

import "sync"

// bufferPool hands out buffers of up to one size, which is a block or a
// metadata block, whichever is greater.
type bufferPool struct {
	size int
	pool sync.Pool // of *[]byte
}

func (p *bufferPool) get(n int) []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return (*b)[:n]
	}
	return make([]byte, p.size)[:n]
}

func (p *bufferPool) put(b []byte) {
	if cap(b) >= p.size {
		b = b[:cap(b)]
		p.pool.Put(&b)
	}
}
