package squashfs

import (
	"context"
	"fmt"
	"slices"
)

// dirState is what is known of a directory while tables are written.
type dirState struct {
	first, count uint32 // its children are kids[first:][:count]
	links        uint32
	list         listing
}

// bindHardLinks finds the inodes that hard links stand for, and counts their
// names.
func (t *tableSet) bindHardLinks() error {
	if len(t.tree.links) == 0 {
		return nil
	}
	t.targets = make([]nodeID, len(t.tree.links))
	t.moreLinks = make(map[nodeID]uint32)
	for i, l := range t.tree.links {
		id, err := t.tree.inodeOf(l)
		if err != nil {
			return &EntryError{Path: t.tree.path(l.node), Err: err}
		}
		t.targets[i] = id
		t.moreLinks[id]++
	}
	return nil
}

// resolved returns the node that has the inode of id.
func (t *tableSet) resolved(id nodeID) nodeID {
	if n := t.tree.at(id); n.typ == 0 {
		return t.targets[n.data]
	}
	return id
}

// sortChildren lists the children of each directory by name.
func (t *tableSet) sortChildren() {
	t.dirs = make([]dirState, t.tree.dirs)
	t.kids = make([]nodeID, t.tree.count-1)
	for id := nodeID(1); uint32(id) < t.tree.count; id++ {
		t.dir(t.tree.at(id).parent).count++
	}
	next := uint32(0)
	for i := range t.dirs {
		d := &t.dirs[i]
		d.first, next = next, next+d.count
		d.count = 0
	}
	for id := nodeID(1); uint32(id) < t.tree.count; id++ {
		d := t.dir(t.tree.at(id).parent)
		t.kids[d.first+d.count] = id
		d.count++
	}
	for i := range t.dirs {
		slices.SortFunc(t.children(&t.dirs[i]), t.tree.compareNames)
	}
}

// dir returns the state of the directory id.
func (t *tableSet) dir(id nodeID) *dirState { return &t.dirs[t.tree.at(id).data] }

func (t *tableSet) children(d *dirState) []nodeID { return t.kids[d.first:][:d.count] }

// number numbers the inodes below the directory id in the order in which they
// are written: those of a directory's children one after the other and by
// name, after all that lies deeper. So a directory's listing names few metadata
// blocks, and reading it with the attributes of its entries touches few. The
// root comes last.
func (t *tableSet) number(ctx context.Context, id nodeID) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("squashfs: %w", err)
	}
	d := t.dir(id)
	d.links = 2
	for _, c := range t.children(d) {
		if t.tree.isDir(c) {
			d.links++
			if err := t.number(ctx, c); err != nil {
				return err
			}
		}
	}
	for _, c := range t.children(d) {
		if c = t.resolved(c); t.numbers[c] == 0 {
			t.setNumber(c)
		}
	}
	if id == 0 {
		t.setNumber(id)
	}
	return nil
}

func (t *tableSet) setNumber(id nodeID) {
	t.count++
	t.numbers[id] = t.count
}

// encodeDir writes the inodes of all children of the directory id, in the order
// that number has found, and then its listing.
func (t *tableSet) encodeDir(ctx context.Context, id nodeID) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("squashfs: %w", err)
	}
	d := t.dir(id)
	for _, c := range t.children(d) {
		if t.tree.isDir(c) {
			t.dir(c).list.parent = t.numbers[id]
			if err := t.encodeDir(ctx, c); err != nil {
				return err
			}
		}
	}
	for _, c := range t.children(d) {
		if c = t.resolved(c); t.numbers[c] == uint32(len(t.refs))+1 {
			if err := t.addInode(c); err != nil {
				return err
			}
		}
	}
	return t.addListing(d)
}
