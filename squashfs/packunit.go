package squashfs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"slices"

	"hpcimg/squashfs/internal/disk"
)

// The way of a file through a Packer. Add reads it into blocks, or into a
// batch of small files, and puts these in the queue "arrived"; jobs hash and
// compress. In the order of arrival, batches that are hashed are sorted into
// fragment groups, and groups that are full, like blocks, go to the queue
// "ready". In that order, units that are compressed are written.
//
// Both queues are worked off by advance, which is run by any goroutine that
// has finished a job; so there is no goroutine that could outlive the Packer,
// and nothing depends on timing but who does the work.

// packItem is what arrives: one of its fields is set.
type packItem struct {
	unit  *packUnit  // goes on at once
	batch *packBatch // goes on when done
	end   bool       // closes the open group
	done  bool
}

// packBatch is a number of small files, one behind the other in data.
type packBatch struct {
	buf    *[]byte
	data   []byte
	files  []packContent
	charge int64
}

func (b *packBatch) hash() {
	at := int64(0)
	for _, c := range b.files {
		c.Digest = sha256.Sum256(b.data[at : at+c.Size])
		at += c.Size
	}
}

// packUnit is a block to be compressed and written: of a file, or a group of
// small files.
type packUnit struct {
	file        *packFile // nil for a group
	first, last bool      // of the file
	group       int32

	buf    *[]byte
	data   []byte
	outBuf *[]byte
	out    []byte // to be written; empty for zeros
	word   disk.SizeWord
	digest [sha256.Size]byte // of data
	charge int64

	compressed bool // under Packer.mu
}

// packFile is a file stored in blocks of its own.
type packFile struct {
	content packContent
	single  bool // one block, whose digest is that of the file
	queued  int

	// Touched by whoever runs advance.
	start int64
	units int       // of the pack, before the file
	sum   hash.Hash // of the digests of the blocks
}

// runBlock is the job for a block of a file.
func (p *Packer) runBlock(u *packUnit) {
	f := u.file
	zero := isZero(u.data)
	if zero {
		u.digest = p.zeroDigest(len(u.data))
	} else {
		u.digest = sha256.Sum256(u.data)
	}
	if f.single {
		f.content.Digest = u.digest
	}
	if !zero && !(f.single && p.isDuplicate(f.content.Content)) {
		p.compress(u)
	}
	p.finish(func() { u.compressed = true })
}

// zeroDigest returns the digest of n zeros. Sparse files ask for that of a block over and over.
func (p *Packer) zeroDigest(n int) [sha256.Size]byte {
	if n == p.cfg.blockSize {
		p.zeroOnce.Do(func() { p.zeroBlock = sha256.Sum256(make([]byte, n)) })
		return p.zeroBlock
	}
	return sha256.Sum256(make([]byte, n))
}

// isDuplicate reports whether c is known to be a duplicate of what has been
// written. It may say no too often, depending on timing.
func (p *Packer) isDuplicate(c *Content) bool {
	if p.opts.NoDuplicates {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.large.find(c) != nil
}

// compress sets out and word of u, whose digest is known.
func (p *Packer) compress(u *packUnit) {
	if p.failed.Load() {
		return
	}
	u.outBuf = p.takeBuf()
	if p.reused(u) {
		return
	}
	out, err := p.pool.encode(p.cfg, *u.outBuf, u.data)
	if err != nil {
		p.fail(fmt.Errorf("squashfs: %w", err))
		return
	}
	// A block that hardly shrinks is quicker to read as it is.
	if out == nil || len(out) > len(u.data)-len(u.data)/64 {
		u.out, u.word = u.data, disk.EncodeSize(len(u.data), true)
		return
	}
	u.out, u.word = out, disk.EncodeSize(len(out), false)
}

// isZero reports whether b has no other bytes than zeros.
func isZero(b []byte) bool {
	return b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}

// enqueue appends item to the arrivals and submits its job.
func (p *Packer) enqueue(item *packItem, job func()) {
	p.mu.Lock()
	p.arrived.push(item)
	if job != nil {
		p.pending++
	}
	p.mu.Unlock()
	if job != nil {
		p.pool.submit(job)
		return
	}
	p.advance()
}

// finish marks the result of a job as there and goes on with what has been
// waiting for it.
func (p *Packer) finish(mark func()) {
	p.mu.Lock()
	mark()
	p.mu.Unlock()
	p.advance()
	p.mu.Lock()
	p.pending--
	p.idle.Broadcast()
	p.mu.Unlock()
}

// advance does all that can be done in order. Only one goroutine does; others
// return at once, because that one looks again before it stops.
func (p *Packer) advance() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running {
		return
	}
	p.running = true
	for {
		if u := p.ready.head(); u != nil && u.compressed {
			p.ready.pop()
			p.unlocked(func() { p.write(u) })
			continue
		}
		item := p.arrived.head()
		if item == nil || item.batch != nil && !item.done {
			break
		}
		p.arrived.pop()
		if item.unit != nil {
			p.ready.push(item.unit)
			continue
		}
		p.unlocked(func() { p.assemble(item) })
	}
	p.running = false
	p.idle.Broadcast()
}

func (p *Packer) unlocked(f func()) {
	p.mu.Unlock()
	defer p.mu.Lock()
	f()
}

// assemble sorts a batch of small files into groups.
func (p *Packer) assemble(item *packItem) {
	b := item.batch
	if b == nil {
		p.closeGroup(0)
		return
	}
	at := int64(0)
	for _, c := range b.files {
		data := b.data[at : at+c.Size]
		at += c.Size
		if !p.opts.NoDuplicates {
			if o := p.small.find(&c.Digest); o != nil {
				c.Fragment, c.FragmentOffset = o.fragment, o.offset
				p.done(c)
				continue
			}
		}
		if p.group != nil && len(p.group.data)+len(data) > p.fragGroup {
			p.closeGroup(b.charge)
			b.charge = 0
		}
		if p.group == nil {
			p.group = &packUnit{group: p.groups, buf: p.takeBuf()}
			p.group.data = (*p.group.buf)[:0]
			p.groups++
		}
		c.Fragment = p.group.group
		c.FragmentOffset = uint32(len(p.group.data))
		p.group.data = append(p.group.data, data...)
		if !p.opts.NoDuplicates {
			p.small.add(smallFile{digest: c.Digest, fragment: c.Fragment, offset: c.FragmentOffset})
		}
		p.done(c)
	}
	p.putBuf(b.buf)
	if b.charge > 0 {
		p.pool.budget.Release(b.charge)
	}
}

// closeGroup passes the open group on, together with the charge for it.
func (p *Packer) closeGroup(charge int64) {
	u := p.group
	if u == nil {
		return
	}
	p.group = nil
	u.charge = charge
	p.mu.Lock()
	p.ready.push(u)
	p.pending++
	p.mu.Unlock()
	p.pool.submit(func() {
		u.digest = sha256.Sum256(u.data)
		p.compress(u)
		p.finish(func() { u.compressed = true })
	})
}

// write writes a unit that is compressed and whose turn it is.
func (p *Packer) write(u *packUnit) {
	defer p.release(u)
	if p.failed.Load() {
		return
	}
	f := u.file
	switch {
	case f == nil:
		p.fragments = append(p.fragments, FragmentBlock{Start: p.pos, Word: u.word})
	case f.single:
		defer p.done(f.content)
		if p.reuse(f.content.Content) {
			return
		}
		if u.word != 0 {
			f.content.Start = p.pos
		}
		f.content.Blocks = []uint32{u.word}
		p.index(f.content.Content)
	default:
		if u.first {
			f.start, f.units, f.sum = p.pos, len(p.units), sha256.New()
		}
		f.sum.Write(u.digest[:])
		f.content.Blocks = append(f.content.Blocks, u.word)
	}
	if !p.writeOut(u) {
		return
	}
	if f != nil && !f.single && u.last {
		p.endFile(f)
	}
}

func (p *Packer) writeOut(u *packUnit) bool {
	if len(u.out) == 0 {
		return true
	}
	p.units = append(p.units, Unit{Digest: u.digest, Start: p.pos, Word: u.word})
	if _, err := p.w.WriteAt(u.out, p.base+p.pos); err != nil {
		p.fail(fmt.Errorf("squashfs: %w", err))
		return false
	}
	p.pos += int64(len(u.out))
	p.high = max(p.high, p.pos)
	p.written.Add(int64(len(u.out)))
	return true
}

// endFile decides whether a file of several blocks stays. If there is an equal
// one, what comes next is written over it.
func (p *Packer) endFile(f *packFile) {
	defer p.done(f.content)
	c := f.content.Content
	f.sum.Sum(c.Digest[:0])
	if p.reuse(c) {
		p.pos, p.units = f.start, p.units[:f.units]
		return
	}
	if p.pos > f.start {
		c.Start = f.start
	}
	c.Blocks = slices.Clip(c.Blocks)
	p.index(c)
}

// reuse makes c refer to an equal content that came earlier, if there is one.
func (p *Packer) reuse(c *Content) bool {
	if p.opts.NoDuplicates {
		return false
	}
	o := p.large.find(c)
	if o == nil {
		return false
	}
	c.Start, c.Blocks = o.Start, o.Blocks
	return true
}

func (p *Packer) index(c *Content) {
	if p.opts.NoDuplicates {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.large.add(c)
}

// release gives a unit's memory back.
func (p *Packer) release(u *packUnit) {
	p.putBuf(u.buf)
	p.putBuf(u.outBuf)
	u.buf, u.outBuf, u.data, u.out = nil, nil, nil, nil
	if u.charge > 0 {
		p.pool.budget.Release(u.charge)
		u.charge = 0
	}
}

// packQueue is a first-in, first-out queue.
type packQueue[T any] struct {
	items []T
	next  int
}

func (q *packQueue[T]) push(v T) {
	if q.next > 0 && q.next >= len(q.items)/2 {
		n := copy(q.items, q.items[q.next:])
		clear(q.items[n:])
		q.items, q.next = q.items[:n], 0
	}
	q.items = append(q.items, v)
}

// head returns the oldest element, or the zero value if there is none.
func (q *packQueue[T]) head() T {
	var zero T
	if q.next == len(q.items) {
		return zero
	}
	return q.items[q.next]
}

func (q *packQueue[T]) pop() {
	var zero T
	q.items[q.next] = zero
	q.next++
}
