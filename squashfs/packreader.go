package squashfs

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"

	"hpcimg/squashfs/internal/disk"
)

// PackReader reads the units of a finished pack, for other packs to be made of
// them. It is safe for concurrent use.
type PackReader struct {
	r       io.ReaderAt
	base    int64
	pack    *Pack
	decoder blockDecoder

	mu    sync.Mutex
	group int32 // which data is; -1 for none
	data  []byte
}

// NewPackReader returns a reader of the pack p, which begins at base of r. The
// pack's description may come from a file that somebody has stored: it is
// checked. Errors wrap [fs.ErrInvalid].
func NewPackReader(r io.ReaderAt, base int64, p *Pack) (*PackReader, error) {
	if p.Size < 0 || base < 0 || p.BlockSize < disk.MinBlockSize || p.BlockSize > disk.MaxBlockSize {
		return nil, fmt.Errorf("squashfs: %w: pack of %d bytes at %d with blocks of %d", fs.ErrInvalid, p.Size, base, p.BlockSize)
	}
	last := int64(-1)
	for _, u := range p.Units {
		n := disk.StoredSize(u.Word)
		if !disk.ValidSize(u.Word) || n == 0 || n > p.BlockSize || u.Start <= last || u.Start > p.Size-int64(n) {
			return nil, fmt.Errorf("squashfs: %w: unit outside of its pack, or out of order", fs.ErrInvalid)
		}
		last = u.Start
	}
	pr := &PackReader{r: r, base: base, pack: p, group: -1}
	if p.Compression != CompressionNone {
		d, err := newBlockDecoder(p.Compression.compressorID())
		if err != nil {
			return nil, err
		}
		pr.decoder = d
	}
	return pr, nil
}

// unitAt returns the unit that starts at the given place.
func (r *PackReader) unitAt(start int64, word uint32) (*Unit, error) {
	i, ok := slices.BinarySearchFunc(r.pack.Units, start, func(u Unit, at int64) int { return cmp.Compare(u.Start, at) })
	if !ok || r.pack.Units[i].Word != word {
		return nil, fmt.Errorf("%w: no unit at %d of the pack", fs.ErrInvalid, start)
	}
	return &r.pack.Units[i], nil
}

// readStored reads the stored form of a unit into dst, if that is large
// enough.
func (r *PackReader) readStored(dst []byte, start int64, word uint32) ([]byte, error) {
	n := disk.StoredSize(word)
	if cap(dst) < n {
		dst = make([]byte, n)
	}
	dst = dst[:n]
	if m, err := r.r.ReadAt(dst, r.base+start); m < n {
		return nil, unexpectedEOF(err)
	}
	return dst, nil
}

// decode decompresses stored into dst, whose length bounds the result.
func (r *PackReader) decode(dst, stored []byte, word uint32) (int, error) {
	if disk.StoredRaw(word) || r.decoder == nil {
		if len(stored) > len(dst) {
			return 0, errDecodedSize
		}
		return copy(dst, stored), nil
	}
	return safeDecode(r.decoder, dst, stored)
}

// readSmall calls use with a group of small files, which stays as it is until
// use returns.
func (r *PackReader) readSmall(group int32, use func(data []byte) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if group < 0 || int(group) >= len(r.pack.Fragments) {
		return fmt.Errorf("%w: the pack has no fragment block %d", fs.ErrInvalid, group)
	}
	if r.group != group {
		r.group = -1
		f := r.pack.Fragments[group]
		if !disk.ValidSize(f.Word) || disk.StoredSize(f.Word) > r.pack.BlockSize || f.Start < 0 || f.Start > r.pack.Size {
			return fmt.Errorf("%w: fragment block outside of its pack", fs.ErrInvalid)
		}
		stored, err := r.readStored(nil, f.Start, f.Word)
		if err != nil {
			return err
		}
		if cap(r.data) < r.pack.BlockSize {
			r.data = make([]byte, r.pack.BlockSize, r.pack.BlockSize+decodeSlack)
		}
		n, err := r.decode(r.data[:r.pack.BlockSize], stored, f.Word)
		if err != nil {
			return fmt.Errorf("fragment block %d: %w", group, err)
		}
		r.data, r.group = r.data[:n], group
	}
	return use(r.data)
}

// Copy adds contents that from has, without decompressing what stands in units
// of its own. from must have been made with the same options; then the pack is
// the same as if Add had been called with what c stands for. Otherwise it is
// like Add.
func (p *Packer) Copy(ctx context.Context, from *PackReader, c *Content) (*Content, error) {
	if p.closed {
		return nil, errPackerClosed
	}
	if err := p.firstError(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, p.fail(fmt.Errorf("squashfs: %w", err))
	}
	n := p.newContent(c.Size)
	err := p.copyContent(ctx, from, c, n)
	if err != nil {
		return nil, p.fail(fmt.Errorf("squashfs: %w", err))
	}
	return n.Content, nil
}

func (p *Packer) copyContent(ctx context.Context, from *PackReader, c *Content, n packContent) error {
	if from.pack.BlockSize != p.cfg.blockSize || from.pack.Compression.compressorID() != p.cfg.compression.compressorID() {
		return fmt.Errorf("%w: pack has compression %v and block size %d, not %v and %d",
			fs.ErrInvalid, from.pack.Compression, from.pack.BlockSize, p.cfg.compression, p.cfg.blockSize)
	}
	switch {
	case c.Size == 0:
		p.empty(n)
		return nil
	case c.Fragment < 0:
		return p.copyBlocks(ctx, from, c, n)
	case len(c.Blocks) > 0 || c.Size < 0 || c.Size >= int64(p.fragLimit):
		return fmt.Errorf("%w: content of %d bytes with a fragment", fs.ErrInvalid, c.Size)
	}
	return from.readSmall(c.Fragment, func(data []byte) error {
		if int64(c.FragmentOffset)+c.Size > int64(len(data)) {
			return fmt.Errorf("%w: content outside of its fragment block", fs.ErrInvalid)
		}
		return p.addSmall(ctx, bytes.NewReader(data[c.FragmentOffset:]), n)
	})
}

// copyBlocks queues the blocks of c as they are stored.
func (p *Packer) copyBlocks(ctx context.Context, from *PackReader, c *Content, n packContent) error {
	bs := int64(p.cfg.blockSize)
	if c.Size < 0 || (c.Size+bs-1)/bs != int64(len(c.Blocks)) {
		return fmt.Errorf("%w: content of %d bytes in %d blocks", fs.ErrInvalid, c.Size, len(c.Blocks))
	}
	f := &packFile{content: n, single: len(c.Blocks) == 1}
	at := c.Start
	for i, word := range c.Blocks {
		u := &packUnit{file: f, first: i == 0, last: i == len(c.Blocks)-1, word: word, compressed: true}
		if word == 0 {
			u.digest = p.zeroDigest(int(min(bs, c.Size-int64(i)*bs)))
		} else if err := p.copyUnit(ctx, from, u, at); err != nil {
			p.release(u)
			return err
		}
		at += int64(len(u.out))
		if f.single {
			n.Digest = u.digest
		}
		p.enqueue(&packItem{unit: u}, nil)
	}
	return nil
}

func (p *Packer) copyUnit(ctx context.Context, from *PackReader, u *packUnit, at int64) error {
	known, err := from.unitAt(at, u.word)
	if err != nil {
		return err
	}
	if err := p.acquire(ctx, &u.charge); err != nil {
		return err
	}
	u.digest = known.Digest
	u.outBuf = p.takeBuf()
	u.out, err = from.readStored((*u.outBuf)[:0], at, u.word)
	return err
}

// unitIndex finds units of packs by what is in them.
type unitIndex map[[sha256.Size]byte]unitRef

type unitRef struct {
	from *PackReader
	unit *Unit
}

func newUnitIndex(packs []*PackReader, cfg encoderConfig) (unitIndex, error) {
	var x unitIndex
	for _, r := range packs {
		if r.pack.BlockSize != cfg.blockSize || r.pack.Compression.compressorID() != cfg.compression.compressorID() {
			return nil, fmt.Errorf("squashfs: %w: pack to be reused has compression %v and block size %d, not %v and %d",
				fs.ErrInvalid, r.pack.Compression, r.pack.BlockSize, cfg.compression, cfg.blockSize)
		}
		if x == nil {
			x = make(unitIndex, len(r.pack.Units))
		}
		for i := range r.pack.Units {
			u := &r.pack.Units[i]
			if _, ok := x[u.Digest]; !ok {
				x[u.Digest] = unitRef{r, u}
			}
		}
	}
	return x, nil
}

// reused takes the stored form of u from a pack that has it, and reports
// whether it could.
func (p *Packer) reused(u *packUnit) bool {
	ref, ok := p.old[u.digest]
	if !ok {
		return false
	}
	stored, err := ref.from.readStored((*u.outBuf)[:0], ref.unit.Start, ref.unit.Word)
	if err != nil {
		return false
	}
	plain := p.takeBuf()
	defer p.putBuf(plain)
	n, err := ref.from.decode(*plain, stored, ref.unit.Word)
	if err != nil || !bytes.Equal((*plain)[:n], u.data) {
		return false
	}
	u.out, u.word = stored, ref.unit.Word
	p.reusedBytes.Add(int64(len(u.data)))
	return true
}
