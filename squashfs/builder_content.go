package squashfs

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"math"

	"hpcimg/squashfs/internal/disk"
)

// storedContent is what tables need of a [Content] and its pack.
type storedContent struct {
	size           int64
	start          int64
	pack           PackID
	fragment       int32 // or -1
	fragmentOffset uint32
	words          []byte // size words of the blocks
}

// addContent keeps c, which may be nil, and returns 0 for an empty file.
func (b *Builder) addContent(c *Content, pack PackID) (addr, error) {
	if c == nil || c.Size == 0 {
		return 0, nil
	}
	var buf [5 * binary.MaxVarintLen64]byte
	head := buf[:0]
	for _, v := range []uint64{uint64(c.Size), uint64(pack), uint64(c.Start), uint64(c.Fragment + 1), uint64(c.FragmentOffset)} {
		head = binary.AppendUvarint(head, v)
	}
	x, rec, err := b.contents.alloc(len(head) + 4*len(c.Blocks))
	if err != nil {
		return 0, err
	}
	rec = rec[copy(rec, head):]
	for i, w := range c.Blocks {
		binary.LittleEndian.PutUint32(rec[4*i:], w)
	}
	return x, nil
}

// setContent gives a file the contents that it had not when it was added.
func (b *Builder) setContent(id nodeID, c *Content, pack PackID) error {
	x, err := b.addContent(c, pack)
	if err == nil {
		b.tree.at(id).data = uint32(x)
	}
	return err
}

// content returns what addContent has kept.
func (b *Builder) content(x addr) storedContent {
	rec := b.contents.at(x)
	next := func() uint64 {
		v, n := binary.Uvarint(rec)
		rec = rec[n:]
		return v
	}
	c := storedContent{size: int64(next())}
	c.pack = PackID(next())
	c.start = int64(next())
	c.fragment = int32(next()) - 1
	c.fragmentOffset = uint32(next())
	c.words = rec[:4*disk.BlockCount(uint64(c.size), b.cfg.blockLog(), c.fragment >= 0)]
	return c
}

// checkContent checks a content's words against its pack. They may come from a
// file that somebody has stored.
func (b *Builder) checkContent(e *Entry) error {
	c := e.Content
	if c == nil || c.Size == 0 && len(c.Blocks) == 0 && c.Fragment == -1 {
		return nil
	}
	if e.Pack < 0 || int(e.Pack) >= len(b.packs) {
		return fmt.Errorf("%w: there is no pack %d", fs.ErrInvalid, e.Pack)
	}
	p := &b.packs[e.Pack]
	bs := int64(p.BlockSize)
	if c.Size < 0 || c.Start < 0 || c.Start > p.Size {
		return fmt.Errorf("%w: content of %d bytes at %d", fs.ErrInvalid, c.Size, c.Start)
	}
	if want := disk.BlockCount(uint64(c.Size), b.cfg.blockLog(), c.Fragment >= 0); want != uint64(len(c.Blocks)) {
		return fmt.Errorf("%w: content of %d bytes has %d blocks, not %d", fs.ErrInvalid, c.Size, len(c.Blocks), want)
	}
	left := p.Size - c.Start
	for _, w := range c.Blocks {
		n := disk.StoredSize(w)
		left -= int64(n)
		if !disk.ValidSize(w) || n > p.BlockSize || left < 0 {
			return fmt.Errorf("%w: content with a block outside of its pack", fs.ErrInvalid)
		}
	}
	if c.Fragment < 0 {
		return nil
	}
	if tail := c.Size % bs; tail == 0 || int(c.Fragment) >= len(p.Fragments) || int64(c.FragmentOffset)+tail > bs {
		return fmt.Errorf("%w: content with a fragment outside of its pack", fs.ErrInvalid)
	}
	return nil
}

// describeFile fills in the part of in that is about contents, and reports
// whether it takes an extended inode. It returns the size words of the blocks.
func (b *Builder) describeFile(x addr, in *disk.Inode) (words []byte, extend bool) {
	if x == 0 {
		return nil, false
	}
	c := b.content(x)
	pack := &b.packs[c.pack]
	in.Size = uint64(c.size)
	stored := false
	left := in.Size
	for w := c.words; len(w) > 0; w = w[4:] {
		size := min(left, uint64(b.cfg.blockSize))
		if binary.LittleEndian.Uint32(w) == 0 {
			in.Sparse += size
		} else {
			stored = true
		}
		left -= size
	}
	if stored {
		in.Start = uint64(pack.offset + c.start)
	}
	if c.fragment >= 0 {
		in.Fragment = uint32(pack.fragmentBase) + uint32(c.fragment)
		in.FragOffset = c.fragmentOffset
	}
	return c.words, in.Start > math.MaxUint32 || in.Size > math.MaxUint32 || in.Sparse > 0
}
