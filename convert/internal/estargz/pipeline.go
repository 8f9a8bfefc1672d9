package estargz

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"hash/crc32"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
)

// pipeline takes batches in the order of the tar stream. Each goes to a worker, to the goroutine that hashes the tar stream, and then
// to the one that writes the blob. There are only so many batches, and all channels have room for all of them: the one wait is
// that for a batch that is free.
type pipeline struct {
	ctx  context.Context
	free chan *batch
	work chan *batch
	hash chan *batch
	emit chan *batch
	done sync.WaitGroup

	// Of the worker, if there is one and no goroutines.
	single *compressor

	// Of the goroutine that hashes.
	diffID, file hash.Hash
	size         int64
	crc          uint32 // of the TOC's member
	crcSize      uint32

	// Of the goroutine that writes.
	w       io.Writer
	digest  hash.Hash
	offset  int64
	tocAt   int64
	toc     toc
	pending int // the entry whose chunks come next

	mu  sync.Mutex
	err error
}

func newPipeline(ctx context.Context, w io.Writer, o *Options) (*pipeline, error) {
	p := &pipeline{
		ctx: ctx, w: w, diffID: sha256.New(), file: sha256.New(), digest: sha256.New(),
		toc: toc{chunk: int64(o.ChunkSize)},
	}
	compressors := make([]*compressor, o.Workers)
	for i := range compressors {
		var err error
		if compressors[i], err = newCompressor(o.Level); err != nil {
			return nil, err
		}
	}
	batches := 1
	if o.Workers > 1 {
		batches = o.Workers + o.Workers/2 + 2
	}
	p.free = make(chan *batch, batches)
	for range batches {
		p.free <- &batch{ready: make(chan struct{}, 1)}
	}
	if o.Workers == 1 {
		p.single = compressors[0]
		return p, nil
	}
	p.work, p.hash, p.emit = make(chan *batch, batches), make(chan *batch, batches), make(chan *batch, batches)
	for _, c := range compressors {
		p.done.Go(func() { p.compress(c) })
	}
	p.done.Go(p.hashAll)
	p.done.Go(p.writeAll)
	return p, nil
}

func (p *pipeline) compress(c *compressor) {
	for b := range p.work {
		if p.failed() == nil {
			c.batch(b)
		}
		b.ready <- struct{}{}
	}
}

func (p *pipeline) hashAll() {
	defer close(p.emit)
	for b := range p.hash {
		p.hashBatch(b)
		p.emit <- b
	}
}

func (p *pipeline) writeAll() {
	for b := range p.emit {
		<-b.ready
		p.writeBatch(b)
		b.reset()
		p.free <- b
	}
}

// get returns an empty batch.
func (p *pipeline) get() (*batch, error) {
	b := <-p.free
	if err := p.failed(); err != nil {
		return nil, err
	}
	return b, nil
}

// submit hands a batch on.
func (p *pipeline) submit(b *batch) error {
	if p.single == nil {
		p.work <- b
		p.hash <- b
		return nil
	}
	p.single.batch(b)
	p.hashBatch(b)
	p.writeBatch(b)
	b.reset()
	p.free <- b
	return p.failed()
}

// drain waits until all batches are through.
func (p *pipeline) drain() error {
	var all []*batch
	for range cap(p.free) {
		all = append(all, <-p.free)
	}
	for _, b := range all {
		p.free <- b
	}
	return p.failed()
}

// close waits for what is under way and returns the first error of the stages behind submit.
func (p *pipeline) close() error {
	if p.single == nil {
		close(p.work)
		close(p.hash)
		p.done.Wait()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// failed returns why there is no point in going on.
func (p *pipeline) failed() error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *pipeline) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
}

// hashBatch takes b into the digests that run over several members.
func (p *pipeline) hashBatch(b *batch) {
	p.diffID.Write(b.raw)
	p.size += int64(len(b.raw))
	if b.piece.toc {
		p.crc = crc32.Update(p.crc, crc32.IEEETable, b.raw)
		p.crcSize += uint32(len(b.raw))
	}
	for i := range b.members {
		m := &b.members[i]
		if m.contents == 0 || m.first && m.last {
			continue // the digest of the chunk is that of the file
		}
		p.file.Write(b.raw[m.start : m.start+m.contents])
		if m.last {
			p.file.Sum(m.file[:0])
			p.file.Reset()
		}
	}
}

// writeBatch writes b, whose place in the blob is now known, and completes its entries.
func (p *pipeline) writeBatch(b *batch) {
	if p.failed() != nil {
		return
	}
	entries := b.entries
	for i := range b.members {
		m := &b.members[i]
		if m.contents > 0 {
			p.toc.chunks = append(p.toc.chunks, chunk{offset: p.offset + int64(m.offset), digest: m.chunk})
		}
		if m.last {
			e := &p.toc.entries[p.pending]
			e.digest = m.chunk
			if !m.first {
				e.digest = m.file
			}
		}
		p.toc.entries = append(p.toc.entries, entries[:m.entries]...)
		entries = entries[m.entries:]
		if m.entries > 0 {
			p.pending = len(p.toc.entries) - 1
		}
	}
	if b.piece.first {
		p.tocAt = p.offset
		p.put(gzipHeader())
	}
	p.put(b.out)
	if b.piece.last {
		p.put(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, p.crc), p.crcSize))
		p.put(footer(p.tocAt))
	}
}

func (p *pipeline) put(data []byte) {
	if p.failed() != nil {
		return
	}
	n, err := p.w.Write(data)
	if err == nil && n != len(data) {
		err = io.ErrShortWrite
	}
	if err != nil {
		p.fail(err)
		return
	}
	p.digest.Write(data)
	p.offset += int64(n)
}

func (p *pipeline) result() *Result {
	return &Result{
		Digest:    digest.NewDigest(digest.SHA256, p.digest),
		DiffID:    digest.NewDigest(digest.SHA256, p.diffID),
		TOCDigest: p.toc.digest,
		Size:      p.offset, UncompressedSize: p.size,
	}
}
