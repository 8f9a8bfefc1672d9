package squashfs

import (
	"runtime"
	"sync"

	"golang.org/x/sync/semaphore"
)

// Pool runs the compression of one or several [Packer]s, with so many workers
// and within so much memory in all. It starts goroutines when there is work
// and lets them end when there is none, so an abandoned Pool leaks nothing.
//
// A Pool is safe for concurrent use.
type Pool struct {
	workers int
	budget  *semaphore.Weighted // bytes of file contents in flight
	inline  bool                // jobs run in submit

	mu       sync.Mutex
	jobs     []func()
	running  int
	encoders map[encoderConfig][]blockEncoder
}

// budgetPerWorker is how much file contents may be in flight for each worker:
// enough that nobody waits while the oldest block is being compressed. With
// very many workers less will do, and maxBudget bounds the whole.
const (
	budgetPerWorker = 2 << 20
	maxBudget       = 64 << 20
)

// NewPool returns a pool of the given number of workers; 0 means GOMAXPROCS.
// File contents in flight take at most 2 MiB for each worker and 4 MiB more,
// or 64 MiB if that is less, and their compressed form no more than that again.
func NewPool(workers int) *Pool {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	return &Pool{
		workers:  workers,
		budget:   semaphore.NewWeighted(min(int64(workers+2)*budgetPerWorker, maxBudget)),
		encoders: make(map[encoderConfig][]blockEncoder),
	}
}

// Workers returns the number of workers.
func (p *Pool) Workers() int { return p.workers }

// Idle returns how many workers have nothing to do at the moment.
func (p *Pool) Idle() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.workers - p.running
}

// Close frees the encoders that the pool keeps. Call it when all packers that
// use the pool are closed.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.encoders)
}

// submit has a worker run job. Jobs must not wait for one another.
func (p *Pool) submit(job func()) {
	if p.inline {
		job()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.jobs = append(p.jobs, job)
	if p.running < p.workers {
		p.running++
		go p.work()
	}
}

func (p *Pool) work() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.jobs) > 0 {
		job := p.jobs[0]
		p.jobs[0] = nil
		p.jobs = p.jobs[1:]
		p.mu.Unlock()
		job()
		p.mu.Lock()
	}
	p.running--
}

// encode compresses src with an encoder of the pool, see blockEncoder.
func (p *Pool) encode(cfg encoderConfig, dst, src []byte) ([]byte, error) {
	e, err := p.takeEncoder(cfg)
	if err != nil {
		return nil, err
	}
	out, err := e.encode(dst, src)
	p.mu.Lock()
	p.encoders[cfg] = append(p.encoders[cfg], e)
	p.mu.Unlock()
	return out, err
}

func (p *Pool) takeEncoder(cfg encoderConfig) (blockEncoder, error) {
	p.mu.Lock()
	idle := p.encoders[cfg]
	if n := len(idle); n > 0 {
		e := idle[n-1]
		p.encoders[cfg] = idle[:n-1]
		p.mu.Unlock()
		return e, nil
	}
	p.mu.Unlock()
	return cfg.newEncoder()
}
