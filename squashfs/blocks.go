package squashfs

import (
	"encoding/binary"
	"io"
	"iter"
	"math"
	"sync"

	"hpcimg/squashfs/internal/disk"
)

// Block is a data block or a fragment block of an image, as it is stored.
type Block struct {
	Offset     int64 // in the image; meaningless for a hole
	StoredSize int   // bytes in the image, 0 for a hole
	Raw        bool  // stored uncompressed
	Size       int   // bytes of the file that it holds
}

// Hole reports whether the block is all zeros and takes no space.
func (b Block) Hole() bool { return b.StoredSize == 0 }

// Fragment is the part of a fragment block that holds a small file or the
// end of a file.
type Fragment struct {
	Block  Block // its Size is unknown before decoding, and 0 here
	Index  uint32
	Offset int // in the decoded block
	Size   int
}

// markStride is how many size words of a block list lie between two marks.
const markStride = 256

// blockList finds blocks of a file by number. On disk only their stored sizes
// stand, so that the place of a block is known after adding up those before.
// Marks make that short, and keep a list that a damaged or huge inode claims
// out of memory: it is read from the inode table as far as it is asked for.
type blockList struct {
	count int64
	mu    sync.Mutex
	marks []blockMark // mark i is at block i*markStride
}

type blockMark struct {
	at    metaPos
	start int64
}

// blockWord is the place and size word of one block.
type blockWord struct {
	start int64
	word  disk.SizeWord
}

func (in *Inode) finishFile() error {
	d := &in.d
	if d.Size > math.MaxInt64 || d.Start > math.MaxInt64 {
		return in.failf("file of %d bytes at %#x", d.Size, d.Start)
	}
	hasFragment := d.Fragment != disk.NoFragment
	n := disk.BlockCount(d.Size, in.r.sb.BlockLog, hasFragment)
	if n > uint64(in.r.inodes.maxRaw(in.tail.block)/4) {
		return in.failf("file of %d bytes, but the inode table has no room for its block list", d.Size)
	}
	if hasFragment {
		if d.Fragment >= in.r.sb.Fragments {
			return in.failf("fragment %d of %d", d.Fragment, in.r.sb.Fragments)
		}
		if end := uint64(d.FragOffset) + uint64(in.fragmentSize()); end > uint64(in.r.sb.BlockSize) {
			return in.failf("fragment ends at %d in a block of %d", end, in.r.sb.BlockSize)
		}
	}
	in.blocks = &blockList{
		count: int64(n),
		marks: []blockMark{{at: in.tail, start: int64(d.Start)}},
	}
	return nil
}

// fragmentSize returns the number of bytes that the file has in a fragment.
func (in *Inode) fragmentSize() int {
	if in.d.Fragment == disk.NoFragment {
		return 0
	}
	return int(in.d.Size & uint64(in.r.sb.BlockSize-1))
}

// blockWords fills out with the blocks from number i and returns how many it
// filled: at least one and not beyond the next mark.
func (in *Inode) blockWords(i int64, out []blockWord) (int, error) {
	mark, err := in.blockMark(i / markStride)
	if err != nil {
		return 0, err
	}
	skip := int(i % markStride)
	last := int(min(int64(markStride), in.blocks.count-i/markStride*markStride))
	last = min(last, skip+len(out))
	var buf [4 * markStride]byte
	c := in.r.cursorAt(&in.r.inodes, mark.at)
	if err := c.read(buf[:4*last]); err != nil {
		return 0, err
	}
	start := mark.start
	for k := range last {
		w := binary.LittleEndian.Uint32(buf[4*k:])
		if k >= skip {
			if err := in.checkWord(start, w); err != nil {
				return 0, err
			}
			out[k-skip] = blockWord{start, w}
		}
		start += int64(disk.StoredSize(w))
	}
	return last - skip, nil
}

// blockMark returns mark m, reading the list up to there.
func (in *Inode) blockMark(m int64) (blockMark, error) {
	l := in.blocks
	l.mu.Lock()
	defer l.mu.Unlock()
	var buf [4 * markStride]byte
	for m >= int64(len(l.marks)) {
		last := l.marks[len(l.marks)-1]
		c := in.r.cursorAt(&in.r.inodes, last.at)
		if err := c.read(buf[:]); err != nil {
			return blockMark{}, err
		}
		for k := range markStride {
			last.start += int64(disk.StoredSize(binary.LittleEndian.Uint32(buf[4*k:])))
		}
		if last.start > in.r.used {
			return blockMark{}, in.failf("block list passes the end of the image")
		}
		last.at = c.pos
		l.marks = append(l.marks, last)
	}
	return l.marks[m], nil
}

// checkWord refuses what kernels do: blocks that are stored in more bytes than
// they hold.
func (in *Inode) checkWord(start int64, w disk.SizeWord) error {
	n := disk.StoredSize(w)
	switch {
	case !disk.ValidSize(w):
		return in.failf("block size word %#x", w)
	case n > int(in.r.sb.BlockSize):
		return formatErrorf("data block", start, "stored in %d bytes, block size is %d", n, in.r.sb.BlockSize)
	case w != 0 && (n == 0 || start < disk.SuperblockSize || start > in.r.used-int64(n)):
		return formatErrorf("data block", start, "%d bytes outside the image", n)
	}
	return nil
}

// blockSizeAt returns the number of file bytes in block i.
func (in *Inode) blockSizeAt(i int64) int {
	bs := int64(in.r.sb.BlockSize)
	return int(min(bs, int64(in.d.Size)-i*bs))
}

// Blocks yields the data blocks of a regular file in their order, the fragment
// not among them.
func (in *Inode) Blocks() iter.Seq2[Block, error] {
	return func(yield func(Block, error) bool) {
		if !in.isRegular() {
			return
		}
		var words [markStride]blockWord
		for i := int64(0); i < in.blocks.count; {
			n, err := in.blockWords(i, words[:])
			if err != nil {
				yield(Block{}, err)
				return
			}
			for k, w := range words[:n] {
				b := Block{
					Offset:     w.start,
					StoredSize: disk.StoredSize(w.word),
					Raw:        disk.StoredRaw(w.word),
					Size:       in.blockSizeAt(i + int64(k)),
				}
				if !yield(b, nil) {
					return
				}
			}
			i += int64(n)
		}
	}
}

// Fragment returns where the end of a regular file lies that is not in a block
// of its own; ok is false if there is none.
func (in *Inode) Fragment() (f Fragment, ok bool, err error) {
	if !in.isRegular() || in.d.Fragment == disk.NoFragment {
		return f, false, nil
	}
	e, err := in.r.fragmentEntry(in.d.Fragment)
	if err != nil {
		return f, false, err
	}
	if err := in.r.checkFragment(e); err != nil {
		return f, false, err
	}
	return Fragment{
		Block:  Block{Offset: int64(e.Start), StoredSize: disk.StoredSize(e.Word), Raw: disk.StoredRaw(e.Word)},
		Index:  in.d.Fragment,
		Offset: int(in.d.FragOffset),
		Size:   in.fragmentSize(),
	}, true, nil
}

func (r *Reader) checkFragment(e disk.Fragment) error {
	n := disk.StoredSize(e.Word)
	switch {
	case !disk.ValidSize(e.Word) || n == 0 || n > int(r.sb.BlockSize):
		return formatErrorf("fragment table", r.fragTable.table.start, "fragment size word %#x", e.Word)
	case e.Start < disk.SuperblockSize || e.Start > uint64(r.used-int64(n)):
		return formatErrorf("fragment block", int64(e.Start), "%d bytes outside the image", n)
	}
	return nil
}

// readBlock decodes a data block into dst, whose length is what the block must
// hold.
func (r *Reader) readBlock(dst []byte, b blockWord) error {
	n := disk.StoredSize(b.word)
	if b.word == 0 {
		clear(dst)
		return nil
	}
	if disk.StoredRaw(b.word) {
		if n != len(dst) {
			return formatErrorf("data block", b.start, "%d bytes instead of %d", n, len(dst))
		}
		return r.readFull(dst, b.start)
	}
	k, err := r.readCompressed(dst, b, "data block")
	if err == nil && k != len(dst) {
		return formatErrorf("data block", b.start, "decompresses to %d bytes instead of %d", k, len(dst))
	}
	return err
}

func (r *Reader) readCompressed(dst []byte, b blockWord, structure string) (int, error) {
	src := r.scratch.get(disk.StoredSize(b.word))
	defer r.scratch.put(src)
	if err := r.readFull(src, b.start); err != nil {
		return 0, err
	}
	return r.decodeBlock(dst, src, structure, b.start)
}

// cachedBlock is readBlock through the cache.
func (r *Reader) cachedBlock(b blockWord, size int) ([]byte, error) {
	key := cacheKey{offset: b.start, word: b.word, size: uint32(size)}
	blk, err := r.dataCache.fetch(key, func() (cacheBlock, error) {
		dst := make([]byte, size, size+decodeSlack)
		return cacheBlock{data: dst}, r.readBlock(dst, b)
	})
	return blk.data, err
}

// cachedFragment returns a decoded fragment block.
func (r *Reader) cachedFragment(i uint32) ([]byte, error) {
	b, err := r.fragmentWord(i)
	if err != nil {
		return nil, err
	}
	blk, err := r.dataCache.fetch(cacheKey{offset: b.start, word: b.word}, func() (cacheBlock, error) {
		buf := r.buffers.get(int(r.sb.BlockSize))
		defer r.buffers.put(buf)
		n, err := r.readFragment(buf, b)
		if err != nil {
			return cacheBlock{}, err
		}
		return cacheBlock{data: append([]byte(nil), buf[:n]...)}, nil
	})
	return blk.data, err
}

// fragmentWord returns where fragment block i is.
func (r *Reader) fragmentWord(i uint32) (blockWord, error) {
	e, err := r.fragmentEntry(i)
	if err != nil {
		return blockWord{}, err
	}
	return blockWord{int64(e.Start), e.Word}, r.checkFragment(e)
}

// readFragment decodes a fragment block into dst, which has the size of a
// block, and returns how long it is.
func (r *Reader) readFragment(dst []byte, b blockWord) (int, error) {
	if n := disk.StoredSize(b.word); disk.StoredRaw(b.word) {
		return n, r.readFull(dst[:n], b.start)
	}
	return r.readCompressed(dst, b, "fragment block")
}

// tailData returns the bytes that the file has in its fragment.
func (in *Inode) tailData() ([]byte, error) {
	data, err := in.r.cachedFragment(in.d.Fragment)
	if err != nil {
		return nil, err
	}
	return in.tailOf(data)
}

// tailOf cuts these bytes out of the decoded fragment block.
func (in *Inode) tailOf(block []byte) ([]byte, error) {
	off, n := int64(in.d.FragOffset), int64(in.fragmentSize())
	if off+n > int64(len(block)) {
		return nil, in.failf("fragment %d ends at %d in a block of %d", in.d.Fragment, off+n, len(block))
	}
	return block[off : off+n], nil
}

// ReadAt reads from a regular file, as io.ReaderAt says. It goes through the
// reader's cache of decoded blocks.
func (in *Inode) ReadAt(p []byte, off int64) (int, error) {
	if err := in.readable(); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, errNegativeOffset
	}
	size := int64(in.d.Size)
	if off >= size {
		return 0, io.EOF
	}
	want := len(p)
	if int64(want) > size-off {
		p = p[:size-off]
	}
	n, err := in.readAt(p, off)
	if err == nil && n < want {
		err = io.EOF
	}
	return n, err
}

// readAt fills p, which does not pass the end of the file.
func (in *Inode) readAt(p []byte, off int64) (int, error) {
	bs := int64(in.r.sb.BlockSize)
	var words [16]blockWord
	total := 0
	for total < len(p) {
		pos := off + int64(total)
		i := pos / bs
		if i >= in.blocks.count {
			data, err := in.tailData()
			if err != nil {
				return total, err
			}
			return total + copy(p[total:], data[pos-i*bs:]), nil
		}
		need := min(int64(len(words)), (off+int64(len(p))-1)/bs-i+1)
		n, err := in.blockWords(i, words[:need])
		if err != nil {
			return total, err
		}
		for _, w := range words[:n] {
			k, err := in.copyBlock(p[total:], w, i, int(off+int64(total)-i*bs))
			total += k
			if err != nil {
				return total, err
			}
			i++
		}
	}
	return total, nil
}

// copyBlock copies block i from skip bytes on.
func (in *Inode) copyBlock(p []byte, w blockWord, i int64, skip int) (int, error) {
	size := in.blockSizeAt(i)
	if w.word == 0 {
		n := min(len(p), size-skip)
		clear(p[:n])
		return n, nil
	}
	data, err := in.r.cachedBlock(w, size)
	if err != nil {
		return 0, err
	}
	return copy(p, data[skip:]), nil
}
