package squashfs

import (
	"encoding/binary"
	"math"

	"hpcimg/squashfs/internal/disk"
)

// idTable numbers user and group ids by first use.
type idTable struct {
	index  map[uint32]uint16
	list   []byte
	owners []ownerIDs // by number in ownerSet
}

type ownerIDs struct {
	uid, gid uint16
	known    bool
}

func newIDTable(owners int) idTable {
	return idTable{index: make(map[uint32]uint16), owners: make([]ownerIDs, owners)}
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

// of returns the numbers of both ids of owner i of s.
func (t *idTable) of(s *ownerSet, i uint32) (o ownerIDs, err error) {
	if t.owners[i].known {
		return t.owners[i], nil
	}
	if o.uid, err = t.add(s.list[i].uid); err != nil {
		return o, err
	}
	if o.gid, err = t.add(s.list[i].gid); err != nil {
		return o, err
	}
	o.known = true
	t.owners[i] = o
	return o, nil
}

// addInode appends the inode of a node to the inode table.
func (t *tableSet) addInode(id nodeID) error {
	n := t.tree.at(id)
	in := disk.Inode{
		Type: uint16(n.typ), Mode: n.mode, MTime: n.mtime, Number: t.numbers[id],
		Links: 1 + t.moreLinks[id], Fragment: disk.NoFragment,
	}
	owner, err := t.ids.of(&t.tree.owners, n.owner)
	if err != nil {
		return err
	}
	in.UID, in.GID = owner.uid, owner.gid
	if in.Xattr, err = t.xattrs.add(n.xattrs); err != nil {
		return err
	}
	extend := in.Xattr != disk.NoXattr
	var tail []byte
	switch n.typ {
	case disk.TypeDir:
		d := t.dir(id)
		tail, d.list.index = d.list.index, nil
		extend = d.describe(&in) || extend
	case disk.TypeFile:
		var wide bool
		tail, wide = t.b.describeFile(addr(n.data), &in)
		extend = wide || extend || in.Links > 1
	case disk.TypeSymlink:
		tail = t.tree.texts.text(addr(n.data))
		in.TargetSize = uint32(len(tail))
	case disk.TypeBlock, disk.TypeChar:
		in.Device = n.data
	}
	if extend {
		in.Type += disk.Extended
	}
	t.refs = append(t.refs, t.inodeTable.ref())
	t.buf = append(disk.AppendInode(t.buf[:0], &in), tail...)
	if in.Type == disk.TypeExtSymlink {
		t.buf = binary.LittleEndian.AppendUint32(t.buf, in.Xattr)
	}
	return t.inodeTable.add(t.buf)
}

// describe fills in the part of in that only directories have, and reports
// whether it takes an extended inode. The listing must be written.
func (d *dirState) describe(in *disk.Inode) (extend bool) {
	in.Links = d.links
	in.DirBlock = uint32(d.list.ref.Block())
	in.DirOffset = uint16(d.list.ref.Offset())
	in.DirSize = d.list.size + disk.EmptyDirSize
	in.Indexes = d.list.indexes
	in.Parent = d.list.parent
	return in.DirSize > math.MaxUint16 || in.Indexes > 0
}
