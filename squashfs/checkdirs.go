package squashfs

import (
	"path"
	"slices"
	"strings"

	"hpcimg/squashfs/internal/disk"
)

// checkDir is a directory yet to be read. Its path is put together when it is
// asked for: those of a tower of directories would take all memory.
type checkDir struct {
	in     *Inode
	index  int // in checker.inodes
	parent *checkDir
	name   string
	depth  int
}

func (d *checkDir) path() string {
	var names []string
	for p := d; p.parent != nil; p = p.parent {
		names = append(names, p.name)
	}
	if len(names) == 0 {
		return "."
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}

func (d *checkDir) join(name []byte) string { return path.Join(d.path(), string(name)) }

// root walks the directories from the root, without recursion.
func (c *checker) root() error {
	if err := c.fatal(RuleDirectory, c.r.openRoot()); err != nil {
		return err
	}
	i := c.index(c.r.root.ref)
	if i < 0 {
		return c.fatal(RuleDangling, formatErrorf("superblock", 0, "root inode %#x is no inode", c.r.root.ref))
	}
	c.inodes[i].claimed = true
	todo := []*checkDir{{in: c.r.root, index: i}}
	for len(todo) > 0 {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if err := c.ctx.Err(); err != nil {
			return err
		}
		sub, err := c.directory(d)
		if err != nil {
			return err
		}
		todo = append(todo, sub...)
	}
	return nil
}

// directory checks one listing and returns its subdirectories.
func (c *checker) directory(d *checkDir) ([]*checkDir, error) {
	if d.depth > maxDepth {
		return nil, c.note(RuleDepth, d.path(), &LimitError{What: "nested directories", Limit: maxDepth})
	}
	l, err := d.in.newListing(d.in.d.DirBlock, 0)
	if err != nil {
		return nil, c.note(RuleDirectory, d.path(), err)
	}
	l.lenient = func(rule CheckRule, err error) { c.find(rule, d.join(l.name()), err) }
	index, err := c.dirIndex(d)
	if err != nil {
		return nil, err
	}
	var sub []*checkDir
	for {
		ok, err := l.next()
		if err != nil {
			rule := RuleDirectory
			if l.tooMany {
				rule = RuleRun
			}
			return sub, c.note(rule, d.path(), err)
		}
		if !ok {
			break
		}
		if at := uint32(l.runPos); l.header && index[at] == (runStart{uint32(l.runBlock - c.r.dirs.start), string(l.name())}) {
			delete(index, at)
		}
		child, i, err := c.entry(d, l)
		if err != nil {
			return sub, err
		}
		if child != nil {
			sub = append(sub, &checkDir{child, i, d, string(l.name()), d.depth + 1})
		}
	}
	for at, x := range index {
		c.find(RuleDirIndex, d.path(), d.in.failf("directory index leads to %q at %d, block %#x, where it is not", x.name, at, x.block))
	}
	return sub, nil
}

// runStart is where a directory index says that a run stands, and what name it
// begins with.
type runStart struct {
	block uint32
	name  string
}

// dirIndex returns the directory's index, by position in the listing.
func (c *checker) dirIndex(d *checkDir) (map[uint32]runStart, error) {
	if d.in.d.Indexes == 0 {
		return nil, nil
	}
	index := make(map[uint32]runStart)
	_, err := d.in.searchIndex(func(x disk.DirIndex, first []byte) bool {
		index[x.Position] = runStart{x.Block, string(first)}
		return true
	})
	return index, c.note(RuleDirIndex, d.path(), err)
}

// entry checks an entry and what it leads to. It returns a directory that has
// to be read.
func (c *checker) entry(d *checkDir, l *dirReader) (*Inode, int, error) {
	off := l.c.pos.block
	i := c.index(l.ref())
	if i < 0 {
		c.find(RuleDangling, d.join(l.name()), formatErrorf("directory", off, "entry leads to %#x, which is no inode", l.ref()))
		return nil, 0, nil
	}
	e := &c.inodes[i]
	if e.number != l.number() {
		c.find(RuleEntryNumber, d.join(l.name()), formatErrorf("directory", off, "entry of inode number %d for %d", l.number(), e.number))
	}
	in, err := c.r.Inode(e.ref)
	if err != nil {
		return nil, 0, c.note(RuleInode, d.join(l.name()), err)
	}
	if t := disk.BasicType(in.d.Type); t != l.entry.Type {
		c.find(RuleEntryType, d.join(l.name()), formatErrorf("directory", off, "entry of type %d, inode of type %d", l.entry.Type, t))
		return nil, 0, nil
	}
	if !in.IsDir() {
		e.seen++
		return nil, 0, nil
	}
	c.inodes[d.index].seen++
	if e.claimed {
		c.find(RuleDirLoop, d.join(l.name()), in.failf("directory %d has two parents, or is its own", e.number))
		return nil, 0, nil
	}
	e.claimed = true
	if in.d.Parent != d.in.d.Number {
		c.find(RuleParent, d.join(l.name()), in.failf("parent is %d, not %d", in.d.Parent, d.in.d.Number))
	}
	return in, i, nil
}
