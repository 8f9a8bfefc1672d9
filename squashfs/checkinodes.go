package squashfs

import (
	"cmp"
	"slices"

	"hpcimg/squashfs/internal/disk"
)

// inodeTable reads all inodes, one behind the other.
func (c *checker) inodeTable() error {
	r := c.r
	c.xattrSeen = make(map[uint32]bool)
	cur, err := r.cursor(&r.inodes, 0, 0)
	if err != nil {
		return c.fatal(RuleInode, err)
	}
	for {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if cur.atEnd() {
			break
		}
		in, err := r.parseInode(&cur)
		if err != nil {
			return c.note(RuleInode, "", err)
		}
		ok, err := c.inode(in, &cur)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
	}
	if n := len(c.inodes); n != int(r.sb.Inodes) {
		c.findf(RuleInodeCount, "superblock", 0, "%d inodes, of which the table has %d", r.sb.Inodes, n)
	}
	c.duplicates()
	return nil
}

// inode checks one inode and moves cur behind it. It is false if that is not
// possible.
func (c *checker) inode(in *Inode, cur *metaCursor) (bool, error) {
	c.report.Inodes++
	if err := c.record(); err != nil {
		return false, err
	}
	if in.d.Mode&^0o7777 != 0 {
		c.find(RuleMode, "", in.failf("inode %d has mode %#o", in.d.Number, in.d.Mode))
	}
	c.inodes = append(c.inodes, checkInode{
		ref: in.ref, number: in.d.Number, links: in.d.Links,
		dir: in.IsDir(),
	})
	if n := in.d.Number; n == 0 || n > c.r.sb.Inodes {
		c.find(RuleInodeNumber, "", in.failf("inode number %d of %d", n, c.r.sb.Inodes))
		in.d.Number = 1 // for finish
	}
	if err := in.finish(cur); err != nil {
		return false, c.note(RuleInode, "", err)
	}
	var err error
	switch {
	case in.IsDir():
		c.report.Directories++
	case in.isRegular():
		c.report.Files++
		err = c.file(in)
	case in.isSymlink() && len(in.target) > disk.MaxTargetLen:
		c.find(RuleSymlink4096, "", in.failf("symbolic link target of %d bytes", len(in.target)))
	}
	if err == nil {
		err = c.xattr(in)
	}
	if err != nil {
		return false, err
	}
	if err := in.skipTail(cur); err != nil {
		return false, c.note(RuleInode, "", err)
	}
	return true, nil
}

// record counts an inode or block against what Check may remember. Images that
// are mostly numbers of numbers would otherwise take all memory.
func (c *checker) record() error {
	c.records++
	limit := min(c.r.size/2+100_000, c.o.MaxRecords)
	if c.records > limit {
		return &LimitError{What: "inodes and blocks", Limit: limit}
	}
	return nil
}

// duplicates finds inodes that have the same number.
func (c *checker) duplicates() {
	order := make([]uint32, len(c.inodes))
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortStableFunc(order, func(a, b uint32) int { return cmp.Compare(c.inodes[a].number, c.inodes[b].number) })
	for k := 1; k < len(order); k++ {
		a, b := &c.inodes[order[k-1]], &c.inodes[order[k]]
		if a.number == b.number {
			c.findf(RuleDuplicate, "inode", c.refOffset(b.ref), "inode number %d twice, at %#x and %#x", a.number, a.ref, b.ref)
		}
	}
	c.byNumber = order
}

// numbered returns the inode of a number, nil for none.
func (c *checker) numbered(n uint32) *checkInode {
	k, ok := slices.BinarySearchFunc(c.byNumber, n, func(i, n uint32) int { return cmp.Compare(c.inodes[i].number, n) })
	if !ok {
		return nil
	}
	return &c.inodes[c.byNumber[k]]
}

// refOffset returns the offset of the metadata block of an inode.
func (c *checker) refOffset(ref InodeRef) int64 {
	return c.r.inodes.start + int64(disk.Ref(ref).Block())
}

func (c *checker) xattr(in *Inode) error {
	x := in.d.Xattr
	if x == disk.NoXattr || c.xattrSeen[x] {
		return nil
	}
	_, err := in.Xattrs()
	if err == nil {
		c.xattrSeen[x] = true
	}
	return c.note(RuleXattr, "", err)
}

// index returns the place in c.inodes of the inode at ref, -1 for none.
func (c *checker) index(ref InodeRef) int {
	i, ok := slices.BinarySearchFunc(c.inodes, ref, func(in checkInode, ref InodeRef) int { return cmp.Compare(in.ref, ref) })
	if !ok {
		return -1
	}
	return i
}

// linkCounts compares what inodes say with the names that were found.
func (c *checker) linkCounts() error {
	for i := range c.inodes {
		in := &c.inodes[i]
		off := c.refOffset(in.ref)
		switch {
		case in.dir && !in.claimed, !in.dir && in.seen == 0:
			c.findf(RuleUnreachable, "inode", off, "inode %d has no name", in.number)
		case in.dir && in.links != in.seen+2, !in.dir && in.links != in.seen:
			want := in.seen
			if in.dir {
				want += 2
			}
			c.findf(RuleLinkCount, "inode", off, "inode %d has a link count of %d, not %d", in.number, in.links, want)
		}
	}
	return nil
}
