package squashfs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"hpcimg/squashfs/internal/disk"
)

// PackerOptions configures a [Packer]. The zero value, like nil, is gzip at
// level 6 with 128 KiB blocks and GOMAXPROCS workers.
type PackerOptions struct {
	Compression Compression
	Level       int // 0 is the compressor's default: gzip 6, zstd 3, lz4 1
	BlockSize   int // power of 2 from 4 KiB to 1 MiB; 0 is 128 KiB
	Workers     int // 0 is GOMAXPROCS; 1 means no goroutines; ignored if Pool is set

	NoFragments  bool // do not pack small files together
	NoDuplicates bool // store equal files as often as they come

	Pool *Pool // shared with other packers; nil makes one of Workers

	// Reuse are packs that were made with the same Compression, Level and
	// BlockSize: where one has a unit of the same contents, its stored form is
	// copied instead of being made anew. It is read back and compared, so that a
	// pack that is not what it should be costs time and nothing else.
	Reuse []*PackReader

	// Done, if set, is told each Content as soon as it is complete, with the
	// number of the call of Add or Copy that returns it, counted from 0. Who
	// keeps it in a smaller form may then forget it. Calls do not overlap; they
	// come in no particular order, from any goroutine and even before Add has
	// returned, and must not use the Packer.
	Done func(n int, c *Content)
}

// Files smaller than fragmentLimit are packed in groups of fragmentGroup
// bytes, which is less than a block: kernels inflate the whole group for each
// of its files and remember only three groups.
const (
	fragmentLimit = 32 << 10
	fragmentGroup = 64 << 10
)

// contentAlign is the unit to which a pack's size is padded.
const contentAlign = disk.PadSize

// Content says where in a pack the contents of a file are. Apart from Size and
// Digest the fields are words of the on-disk format, to be stored and handed
// to a [Builder] as they are. Start is relative to the pack.
//
// Digest tells contents apart within packs of one block size: it is the SHA-256
// of the contents if they fit in a block and else of the concatenated SHA-256
// digests of the blocks, which can be computed side by side.
type Content struct {
	Size           int64
	Start          int64
	Blocks         []uint32
	Fragment       int32 // index into Pack.Fragments, or -1
	FragmentOffset uint32
	Digest         [sha256.Size]byte
}

// FragmentBlock is a group of small files in a pack, as the on-disk format
// describes it. Start is relative to the pack.
type FragmentBlock struct {
	Start int64
	Word  uint32
}

// Unit is a data block or a group of small files in a pack, in the order in
// which they stand there. Blocks of zeros are stored nowhere and have no unit.
type Unit struct {
	Digest [sha256.Size]byte // SHA-256 of the uncompressed contents
	Start  int64             // relative to the pack
	Word   uint32            // size word of the on-disk format
}

// Pack describes a finished pack.
type Pack struct {
	Size        int64 // a multiple of 4096
	Fragments   []FragmentBlock
	Units       []Unit // a Builder does not need them
	Compression Compression
	BlockSize   int
}

// PackerStats counts bytes while a [Packer] works.
type PackerStats struct {
	Read    int64 // of file contents
	Written int64 // of compressed blocks
	Reused  int64 // of file contents that had not to be compressed, thanks to PackerOptions.Reuse
}

// Packer compresses the contents of files into a pack: the data blocks and
// fragments of an image, without names or attributes. What it writes is a
// function of the contents, their order and the options, but not of the
// number of workers.
//
// The methods of a Packer must be called from one goroutine at a time. Any
// number of packers may share a [Pool].
type Packer struct {
	w    io.WriterAt
	base int64
	cfg  encoderConfig
	opts PackerOptions
	pool *Pool
	old  unitIndex // of PackerOptions.Reuse

	fragLimit int // files of fewer bytes go into fragments
	fragGroup int
	bufs      sync.Pool // *[]byte of a block
	read      atomic.Int64
	written   atomic.Int64

	reusedBytes atomic.Int64

	zeroOnce  sync.Once
	zeroBlock [sha256.Size]byte

	added  int        // calls of Add and Copy
	batch  *packBatch // small files that wait for more
	closed bool
	failed atomic.Bool // err is set

	mu      sync.Mutex
	idle    *sync.Cond
	err     error
	arrived packQueue[*packItem] // by order of Add
	ready   packQueue[*packUnit] // by order of writing
	running bool                 // some goroutine is in advance
	pending int                  // jobs submitted and not finished

	// Touched by whoever runs advance.
	pos       int64
	high      int64 // end of what was ever written
	group     *packUnit
	fragments []FragmentBlock
	units     []Unit
	groups    int32 // groups begun
	small     smallIndex
	large     contentIndex // read by jobs too, under mu

	doneMu sync.Mutex // held while Done is called
}

// NewPacker returns a Packer whose pack begins at base of w.
func NewPacker(w io.WriterAt, base int64, opts *PackerOptions) (*Packer, error) {
	if opts == nil {
		opts = &PackerOptions{}
	}
	cfg, err := newEncoderConfig(opts.Compression, opts.Level, opts.BlockSize)
	if err != nil {
		return nil, err
	}
	if base < 0 || opts.Workers < 0 {
		return nil, fmt.Errorf("squashfs: negative base or Workers")
	}
	p := &Packer{
		w:         w,
		base:      base,
		cfg:       cfg,
		opts:      *opts,
		pool:      opts.Pool,
		fragLimit: min(fragmentLimit, cfg.blockSize),
		fragGroup: min(fragmentGroup, cfg.blockSize),
		large:     make(contentIndex),
	}
	if p.pool == nil {
		p.pool = NewPool(opts.Workers)
		p.pool.inline = opts.Workers == 1
	}
	if opts.NoFragments {
		p.fragLimit = 0
	}
	if p.old, err = newUnitIndex(opts.Reuse, cfg); err != nil {
		return nil, err
	}
	p.idle = sync.NewCond(&p.mu)
	p.bufs.New = func() any {
		// Encoders work best with a little more room than they need.
		b := make([]byte, cfg.blockSize, cfg.blockSize+cfg.blockSize/128+64)
		return &b
	}
	return p, nil
}

// Add reads size bytes from r and queues them for compression. It returns as
// soon as it has read them; the Content that it returns is filled in by the
// time that Close has returned. If r ends early the error is
// [io.ErrUnexpectedEOF].
//
// After an error, which may stem from an earlier call, the pack is of no use.
func (p *Packer) Add(ctx context.Context, r io.Reader, size int64) (*Content, error) {
	if p.closed {
		return nil, errPackerClosed
	}
	if size < 0 {
		return nil, fmt.Errorf("squashfs: negative file size %d", size)
	}
	if err := p.firstError(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, p.fail(fmt.Errorf("squashfs: %w", err))
	}
	c := p.newContent(size)
	var err error
	switch {
	case size == 0:
		p.empty(c)
	case size < int64(p.fragLimit):
		err = p.addSmall(ctx, r, c)
	default:
		err = p.addBlocks(ctx, r, c)
	}
	if err != nil {
		return nil, p.fail(fmt.Errorf("squashfs: %w", err))
	}
	return c.Content, nil
}

// packContent is a Content on its way, with the number that Done wants.
type packContent struct {
	*Content
	n int
}

func (p *Packer) newContent(size int64) packContent {
	p.added++
	return packContent{&Content{Size: size, Fragment: -1}, p.added - 1}
}

// empty completes the content of a file without any.
func (p *Packer) empty(c packContent) {
	c.Digest = sha256.Sum256(nil)
	p.done(c)
}

// done says that a content is complete.
func (p *Packer) done(c packContent) {
	if p.opts.Done == nil {
		return
	}
	p.doneMu.Lock()
	defer p.doneMu.Unlock()
	p.opts.Done(c.n, c.Content)
}

var errPackerClosed = errors.New("squashfs: packer is closed")

func (p *Packer) addSmall(ctx context.Context, r io.Reader, c packContent) error {
	n := int(c.Size)
	if p.batch != nil && len(p.batch.data)+n > p.fragGroup {
		if err := p.submitBatch(ctx); err != nil {
			return err
		}
	}
	if p.batch == nil {
		p.batch = &packBatch{buf: p.takeBuf()}
		p.batch.data = (*p.batch.buf)[:0]
	}
	b := p.batch
	at := len(b.data)
	if _, err := io.ReadFull(r, b.data[at:at+n]); err != nil {
		return unexpectedEOF(err)
	}
	p.read.Add(c.Size)
	b.data = b.data[:at+n]
	b.files = append(b.files, c)
	return nil
}

// submitBatch passes the batch of small files on. Only then is it charged to
// the budget: what is charged must not wait for another Add.
func (p *Packer) submitBatch(ctx context.Context) error {
	b := p.batch
	if b == nil {
		return nil
	}
	if err := p.acquire(ctx, &b.charge); err != nil {
		return err
	}
	p.batch = nil
	item := &packItem{batch: b}
	p.enqueue(item, func() {
		b.hash()
		p.finish(func() { item.done = true })
	})
	return nil
}

// addBlocks reads a file that is stored in blocks of its own.
func (p *Packer) addBlocks(ctx context.Context, r io.Reader, c packContent) error {
	f := &packFile{content: c, single: c.Size <= int64(p.cfg.blockSize)}
	for left := c.Size; left > 0; {
		u := &packUnit{file: f}
		if err := p.acquire(ctx, &u.charge); err != nil {
			return err
		}
		u.buf = p.takeBuf()
		u.data = (*u.buf)[:min(left, int64(p.cfg.blockSize))]
		if _, err := io.ReadFull(r, u.data); err != nil {
			p.release(u)
			return unexpectedEOF(err)
		}
		left -= int64(len(u.data))
		p.read.Add(int64(len(u.data)))
		u.first = f.queued == 0
		u.last = left == 0
		f.queued++
		p.enqueue(&packItem{unit: u}, func() { p.runBlock(u) })
	}
	return nil
}

func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Close compresses what is left, waits for all workers and completes the pack.
// It reports the first error of the whole pack, and must be called even if
// Add has failed. A second call returns an error.
func (p *Packer) Close() (*Pack, error) {
	if p.closed {
		return nil, errPackerClosed
	}
	p.closed = true
	if p.firstError() == nil {
		if err := p.submitBatch(context.Background()); err != nil {
			return nil, p.fail(err)
		}
		p.enqueue(&packItem{end: true, done: true}, nil)
	}
	p.mu.Lock()
	for p.pending > 0 || p.running {
		p.idle.Wait()
	}
	err := p.err
	p.mu.Unlock()
	if p.opts.Pool == nil {
		p.pool.Close()
	}
	if err != nil {
		return nil, err
	}
	p.small, p.large = smallIndex{}, nil
	size, err := p.pad()
	if err != nil {
		return nil, p.fail(err)
	}
	return &Pack{
		Size:        size,
		Fragments:   p.fragments,
		Units:       p.units,
		Compression: p.cfg.compression,
		BlockSize:   p.cfg.blockSize,
	}, nil
}

// pad writes zeros up to the pack's size, and over what duplicates have left
// beyond it.
func (p *Packer) pad() (int64, error) {
	size := (p.pos + contentAlign - 1) &^ (contentAlign - 1)
	zeros := make([]byte, 64<<10)
	for pos, end := p.pos, max(size, p.high); pos < end; {
		n := min(end-pos, int64(len(zeros)))
		if _, err := p.w.WriteAt(zeros[:n], p.base+pos); err != nil {
			return 0, fmt.Errorf("squashfs: %w", err)
		}
		pos += n
	}
	return size, nil
}

// Stats returns what has been done so far. It may be called at any time, from
// any goroutine.
func (p *Packer) Stats() PackerStats {
	return PackerStats{Read: p.read.Load(), Written: p.written.Load(), Reused: p.reusedBytes.Load()}
}

// acquire takes a block's worth of the pool's budget.
func (p *Packer) acquire(ctx context.Context, charge *int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n := int64(p.cfg.blockSize)
	if err := p.pool.budget.Acquire(ctx, n); err != nil {
		return err
	}
	*charge += n
	return nil
}

func (p *Packer) takeBuf() *[]byte { return p.bufs.Get().(*[]byte) }

func (p *Packer) putBuf(b *[]byte) {
	if b != nil {
		p.bufs.Put(b)
	}
}

// fail records the first error and returns it.
func (p *Packer) fail(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
		p.failed.Store(true)
	}
	return p.err
}

func (p *Packer) firstError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}
