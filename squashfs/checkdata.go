package squashfs

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"hpcimg/squashfs/internal/disk"
)

// blockUse is a data block of some file.
type blockUse struct {
	blockWord
	size int32
}

// fragmentUse is the part of a fragment block that some file has.
type fragmentUse struct {
	index, off, size uint32
	inode            uint32
}

// file checks where the blocks of a file lie and notes them.
func (c *checker) file(in *Inode) error {
	r := c.r
	if in.d.Fragment != disk.NoFragment {
		if in.fragmentSize() == 0 {
			c.find(RuleTail, "", in.failf("inode %d of %d bytes, whole blocks, has a fragment", in.d.Number, in.d.Size))
		} else {
			c.fragments = append(c.fragments, fragmentUse{
				in.d.Fragment, in.d.FragOffset, uint32(in.fragmentSize()),
				in.d.Number,
			})
		}
	}
	var words [markStride]blockWord
	for i := int64(0); i < in.blocks.count; {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		n, err := in.blockWords(i, words[:])
		if err != nil {
			return c.note(RuleBlock, "", err)
		}
		for _, w := range words[:n] {
			if w.word != 0 {
				if err := c.record(); err != nil {
					return err
				}
				c.blocks = append(c.blocks, blockUse{w, int32(in.blockSizeAt(i))})
			}
			i++
		}
	}
	if in.blocks.count > 0 && in.d.Start > uint64(r.used) {
		c.find(RuleBlock, "", in.failf("inode %d starts at %#x", in.d.Number, in.d.Start))
	}
	return nil
}

// data checks all blocks: that they do not overlap tables or, in part, each
// other, and that they hold what they should.
func (c *checker) data() error {
	slices.SortFunc(c.blocks, func(a, b blockUse) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.word, b.word), cmp.Compare(a.size, b.size))
	})
	c.blocks = slices.Compact(c.blocks)
	c.report.Blocks = int64(len(c.blocks))
	frags, err := c.fragmentTable()
	if err != nil {
		return err
	}
	c.overlaps(frags)
	sizes := make([]int, len(frags))
	if !c.o.NoData {
		err := c.parallel(len(c.blocks)+len(frags), func(i int) (err error) {
			if i < len(c.blocks) {
				return c.block(c.blocks[i])
			}
			i -= len(c.blocks)
			sizes[i], err = c.fragment(frags[i])
			return err
		})
		if err != nil {
			return err
		}
	}
	c.fragmentUses(sizes)
	return nil
}

func (c *checker) block(b blockUse) error {
	buf := c.r.buffers.get(int(b.size))
	defer c.r.buffers.put(buf)
	return c.note(RuleData, "", c.r.readBlock(buf, b.blockWord))
}

func (c *checker) fragment(b blockWord) (int, error) {
	buf := c.r.buffers.get(int(c.r.sb.BlockSize))
	defer c.r.buffers.put(buf)
	n, err := c.r.readFragment(buf, b)
	return n, c.note(RuleData, "", err)
}

// parallel calls f for 0 to n-1 on the workers and returns the first error.
func (c *checker) parallel(n int, f func(i int) error) error {
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(c.o.Workers, n) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	if c.ctx.Err() != nil {
		return c.ctx.Err()
	}
	return context.Cause(ctx)
}

// fragmentTable returns the blocks of the fragment table.
func (c *checker) fragmentTable() ([]blockWord, error) {
	t := c.r.fragTable
	if t == nil {
		return nil, nil
	}
	var frags []blockWord
	for i := range t.count {
		if err := c.ctx.Err(); err != nil {
			return nil, err
		}
		e, err := c.r.fragmentEntry(uint32(i))
		if err == nil {
			err = c.r.checkFragment(e)
		}
		if err != nil {
			return frags, c.note(RuleBlock, "", err)
		}
		frags = append(frags, blockWord{int64(e.Start), e.Word})
	}
	c.report.Fragments = int64(len(frags))
	return frags, nil
}

// overlaps reports blocks that reach into tables, or start within another.
// Blocks that are used twice as a whole are how duplicates are stored.
func (c *checker) overlaps(frags []blockWord) {
	all := make([]blockWord, 0, len(c.blocks)+len(frags))
	for _, b := range c.blocks {
		all = append(all, b.blockWord)
	}
	all = append(all, frags...)
	slices.SortFunc(all, func(a, b blockWord) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.word, b.word))
	})
	all = slices.Compact(all)
	end := c.dataStart
	for _, b := range all {
		if b.start < end {
			c.findf(RuleOverlap, "data block", b.start, "starts before the end of what precedes it, %#x", end)
		}
		end = max(end, b.start+int64(disk.StoredSize(b.word)))
		if end > c.r.inodes.start {
			c.findf(RuleOverlap, "data block", b.start, "ends at %#x, in the tables", end)
			end = c.r.inodes.start
		}
	}
}

// fragmentUses compares what files have in fragments with the fragments' sizes
// and with each other.
func (c *checker) fragmentUses(sizes []int) {
	slices.SortFunc(c.fragments, func(a, b fragmentUse) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(a.off, b.off), cmp.Compare(a.size, b.size))
	})
	used := make([]bool, len(sizes))
	for i, f := range c.fragments {
		if int(f.index) >= len(sizes) {
			continue
		}
		used[f.index] = true
		size := sizes[f.index]
		if size > 0 && int(f.off+f.size) > size {
			c.findf(RuleFragment, "fragment table", c.r.fragTable.table.start,
				"inode %d ends at %d of fragment %d, which has %d bytes", f.inode, f.off+f.size, f.index, size)
		}
		if i == 0 || c.fragments[i-1].index != f.index {
			continue
		}
		if p := c.fragments[i-1]; p.off+p.size > f.off && (p.off != f.off || p.size != f.size) {
			c.findf(RuleShare, "fragment table", c.r.fragTable.table.start,
				"inodes %d and %d share a part of fragment %d", p.inode, f.inode, f.index)
		}
	}
	for i, ok := range used {
		if !ok {
			c.findf(RuleUnused, "fragment table", c.r.fragTable.table.start, "no file has a part of fragment %d", i)
		}
	}
}
