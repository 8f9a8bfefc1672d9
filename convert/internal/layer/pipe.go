package layer

import (
	"hash"
	"io"
	"sync"
	"sync/atomic"
)

const (
	chunkSize  = 256 << 10
	chunkCount = 8 // per pipe: 2 MiB
)

// pipe passes a stream from one goroutine to another through a fixed number of buffers, so that both can be at work at the
// same time. If it has a hash, a third goroutine keeps that up to date.
type pipe struct {
	free chan *chunk
	data chan *chunk
	sums chan *chunk
	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup

	err error // why data was closed; set before it is

	cur *chunk // being read
	off int
	end error
}

type chunk struct {
	buf  [chunkSize]byte
	n    int
	refs atomic.Int32
}

// newPipe returns a pipe that carries what produce writes. The error that produce returns, or io.EOF, ends the stream for
// the reader; finish, if not nil, is called before that once all has been hashed, if produce has returned nil.
func newPipe(produce func(io.Writer) error, sum hash.Hash, finish func() error) *pipe {
	p := &pipe{
		free: make(chan *chunk, chunkCount),
		data: make(chan *chunk, chunkCount),
		stop: make(chan struct{}),
	}
	for range chunkCount {
		p.free <- nil // made when first used
	}
	hashed := make(chan struct{})
	if sum != nil {
		p.sums = make(chan *chunk, chunkCount)
		p.wg.Go(func() {
			defer close(hashed)
			for c := range p.sums {
				sum.Write(c.buf[:c.n])
				p.release(c)
			}
		})
	} else {
		close(hashed)
	}
	p.wg.Go(func() {
		err := produce(p)
		if p.sums != nil {
			close(p.sums)
		}
		<-hashed
		if err == nil && finish != nil {
			err = finish()
		}
		if err == nil {
			err = io.EOF
		}
		p.err = err
		close(p.data)
	})
	return p
}

// Write is for the producer.
func (p *pipe) Write(b []byte) (int, error) {
	total := 0
	for len(b) > 0 {
		var c *chunk
		select {
		case c = <-p.free:
		case <-p.stop:
			return total, io.ErrClosedPipe
		}
		if c == nil {
			c = new(chunk)
		}
		c.n = copy(c.buf[:], b)
		p.pass(c)
		total += c.n
		b = b[c.n:]
	}
	return total, nil
}

// ReadFrom is for the producer: it saves a copy.
func (p *pipe) ReadFrom(r io.Reader) (int64, error) {
	var total int64
	for {
		var c *chunk
		select {
		case c = <-p.free:
		case <-p.stop:
			return total, io.ErrClosedPipe
		}
		if c == nil {
			c = new(chunk)
		}
		var err error
		c.n, err = fill(r, c.buf[:])
		total += int64(c.n)
		if c.n > 0 {
			p.pass(c)
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// fill reads until b is full or r ends. Unlike io.ReadFull it returns r's own error.
func fill(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	return n, err
}

// pass never blocks: there are no more chunks than the channels have room for.
func (p *pipe) pass(c *chunk) {
	if p.sums == nil {
		c.refs.Store(1)
	} else {
		c.refs.Store(2)
		p.sums <- c
	}
	p.data <- c
}

func (p *pipe) release(c *chunk) {
	if c.refs.Add(-1) == 0 {
		p.free <- c
	}
}

// Read is for the consumer.
func (p *pipe) Read(b []byte) (int, error) {
	if p.end != nil {
		return 0, p.end
	}
	if p.cur == nil {
		c, ok := <-p.data
		if !ok {
			p.end = p.err
			return 0, p.end
		}
		p.cur, p.off = c, 0
	}
	n := copy(b, p.cur.buf[p.off:p.cur.n])
	if p.off += n; p.off == p.cur.n {
		p.release(p.cur)
		p.cur = nil
	}
	return n, nil
}

// halt makes the producer's next write fail. It does not wait.
func (p *pipe) halt() { p.once.Do(func() { close(p.stop) }) }
