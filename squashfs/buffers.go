package squashfs

import "sync"

// bufferPool hands out buffers of up to one size, which is a block or a
// metadata block, whichever is greater, with decodeSlack behind it.
type bufferPool struct {
	size int
	pool sync.Pool // of *[]byte
}

func (p *bufferPool) get(n int) []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return (*b)[:n]
	}
	return make([]byte, n, p.size+decodeSlack)
}

func (p *bufferPool) put(b []byte) {
	if cap(b) >= p.size+decodeSlack {
		b = b[:cap(b)]
		p.pool.Put(&b)
	}
}
