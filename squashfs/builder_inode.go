package squashfs

import (
	"encoding/binary"
	"math"

	"hpcimg/squashfs/internal/disk"
)

// idTable numbers user and group ids by first use.
type idTable struct {
	index map[uint32]uint16
	list  []byte
}

func (t *idTable) add(id uint32) (uint16, error) {
	if i, ok := t.index[id]; ok {
		return i, nil
	}
	if len(t.index) == disk.MaxIDs {
		return 0, &LimitError{What: "distinct user and group ids", Limit: disk.MaxIDs}
	}
	i := uint16(len(t.index))
	t.index[id] = i
	t.list = binary.LittleEndian.AppendUint32(t.list, id)
	return i, nil
}

// addInode appends the inode of n to the inode table.
func (t *tableSet) addInode(n *treeNode) error {
	in := disk.Inode{
		Type: n.typ, Mode: n.mode, MTime: n.mtime, Number: n.number,
		Links: n.links, Fragment: disk.NoFragment, Device: n.device,
	}
	var err error
	if in.UID, err = t.ids.add(n.uid); err != nil {
		return err
	}
	if in.GID, err = t.ids.add(n.gid); err != nil {
		return err
	}
	if in.Xattr, err = t.xattrs.add(n.xattrs); err != nil {
		return err
	}
	extend := in.Xattr != disk.NoXattr
	switch n.typ {
	case disk.TypeDir:
		extend = t.describeDir(n, &in) || extend
	case disk.TypeFile:
		extend = t.describeFile(n, &in) || extend || n.links > 1
	case disk.TypeSymlink:
		in.TargetSize = uint32(len(n.target))
	}
	if extend {
		in.Type += disk.Extended
	}
	n.ref = t.inodes.ref()
	t.done++
	t.buf = disk.AppendInode(t.buf[:0], &in)
	switch n.typ {
	case disk.TypeDir:
		t.buf = append(t.buf, n.dir.list.index...)
		n.dir.list.index = nil
	case disk.TypeFile:
		if n.content != nil {
			for _, w := range n.content.Blocks {
				t.buf = binary.LittleEndian.AppendUint32(t.buf, w)
			}
		}
	case disk.TypeSymlink:
		t.buf = append(t.buf, n.target...)
		if extend {
			t.buf = binary.LittleEndian.AppendUint32(t.buf, in.Xattr)
		}
	}
	return t.inodes.add(t.buf)
}

// describeFile fills in the part of in that is about contents, and reports
// whether it takes an extended inode.
func (t *tableSet) describeFile(n *treeNode, in *disk.Inode) (extend bool) {
	c := n.content
	if c == nil || c.Size == 0 {
		return false
	}
	pack := &t.b.packs[n.pack]
	in.Size = uint64(c.Size)
	stored := false
	left := in.Size
	for _, w := range c.Blocks {
		size := min(left, uint64(t.b.cfg.blockSize))
		if w == 0 {
			in.Sparse += size
		} else {
			stored = true
		}
		left -= size
	}
	if stored {
		in.Start = uint64(pack.offset + c.Start)
	}
	if c.Fragment >= 0 {
		in.Fragment = uint32(pack.fragmentBase) + uint32(c.Fragment)
		in.FragOffset = c.FragmentOffset
	}
	return in.Start > math.MaxUint32 || in.Size > math.MaxUint32 || in.Sparse > 0
}

// describeDir does the same for a directory, whose listing is written.
func (t *tableSet) describeDir(n *treeNode, in *disk.Inode) (extend bool) {
	in.DirBlock = uint32(n.dir.list.ref.Block())
	in.DirOffset = uint16(n.dir.list.ref.Offset())
	in.DirSize = n.dir.list.size + disk.EmptyDirSize
	in.Indexes = n.dir.list.indexes
	in.Parent = n.dir.list.parent
	return in.DirSize > math.MaxUint16 || in.Indexes > 0
}
