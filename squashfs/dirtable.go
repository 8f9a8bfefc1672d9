package squashfs

import (
	"bytes"
	"hash/maphash"
	"io/fs"
	"iter"
	"syscall"

	"hpcimg/squashfs/internal/disk"
)

// Dirent is an entry of a directory.
type Dirent struct {
	Name   string
	Ref    InodeRef
	Number uint32
	Type   fs.FileMode // type bits only
	Next   uint64      // where [Inode.ReadDir] goes on behind this entry
}

// ReadDir yields the entries of a directory, sorted by name, without "." and
// "..". It starts at the beginning if from is 0, else behind the entry whose
// Next from is. Entries that no directory can have (empty names, "..", names
// with a slash, unsorted or duplicate names) end it with an error.
func (in *Inode) ReadDir(from uint64) iter.Seq2[Dirent, error] {
	return func(yield func(Dirent, error) bool) {
		l, err := in.listing(from)
		if err != nil {
			yield(Dirent{}, err)
			return
		}
		for {
			ok, err := l.next()
			if err != nil {
				yield(Dirent{}, err)
				return
			}
			if !ok || !yield(l.dirent(), nil) {
				return
			}
		}
	}
}

// Lookup returns the inode that name has in a directory. The error for a name
// that is not there is fs.ErrNotExist.
func (in *Inode) Lookup(name string) (*Inode, error) {
	if len(name) == 0 || len(name) > disk.MaxNameLen {
		return nil, fs.ErrNotExist
	}
	l, err := in.listingFor(name)
	if err != nil {
		return nil, err
	}
	for {
		ok, err := l.next()
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fs.ErrNotExist
		}
		switch c := bytes.Compare(l.name(), []byte(name)); {
		case c == 0:
			return in.child(l.ref(), typeMode(l.entry.Type), name)
		case c > 0:
			return nil, fs.ErrNotExist
		}
	}
}

// Child returns the inode of an entry that the directory in yielded.
func (in *Inode) Child(e Dirent) (*Inode, error) {
	if !in.IsDir() {
		return nil, syscall.ENOTDIR
	}
	return in.child(e.Ref, e.Type, e.Name)
}

// child returns the inode behind an entry of the directory in.
func (in *Inode) child(ref InodeRef, t fs.FileMode, name string) (*Inode, error) {
	c, err := in.r.Inode(ref)
	if err != nil {
		return nil, err
	}
	if c.Mode().Type() != t {
		return nil, c.failf("directory entry is a %v, inode a %v", t, c.Mode().Type())
	}
	if c.IsDir() {
		if err := in.r.claim(c, in, name); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// dirName is the one name of a directory: its parent, and a hash of the name
// there.
type dirName struct {
	parent InodeRef
	name   uint64
}

// claim notes under which name the directory child was found, and refuses one
// that was found under another before. As each directory then has one parent
// and the root none, no walk from the root can run in a circle.
func (r *Reader) claim(child, parent *Inode, name string) error {
	d := dirName{parent.ref, maphash.String(r.seed, name)}
	r.claimsMu.Lock()
	defer r.claimsMu.Unlock()
	first, ok := r.claims[child.ref]
	switch {
	case child.ref == r.root.ref:
		return child.failf("root directory is an entry of another")
	case !ok:
		r.claims[child.ref] = d
	case first != d:
		return child.failf("directory %d has two names", child.d.Number)
	}
	return nil
}

// dirReader reads the runs of a directory's listing.
type dirReader struct {
	c         metaCursor
	size, pos int64 // bytes of the listing; offset of the next record
	runPos    int64 // offset of the current run's header
	run       disk.DirHeader
	index     uint32 // of the entry behind the current one, in its run
	entry     disk.DirEntry
	inodes    uint32
	nameBuf   [disk.MaxNameLen]byte
	prev      [disk.MaxNameLen]byte
	prevLen   int
	runBlock  int64                           // metadata block of the current run's header
	tooMany   bool                            // the run has more entries than kernels read
	header    bool                            // the current entry is the first of its run
	lenient   func(rule CheckRule, err error) // takes what check would refuse; for Check
}

func (l *dirReader) name() []byte  { return l.nameBuf[:l.entry.NameSize] }
func (l *dirReader) ref() InodeRef { return InodeRef(disk.NewRef(uint64(l.run.Block), l.entry.Offset)) }

func (l *dirReader) number() uint32 { return uint32(int64(l.run.Number) + int64(l.entry.Delta)) }

// dirent returns the current entry. Its Next is the offset of the run's header
// and the number of entries to pass over there, or the offset of the next run.
func (l *dirReader) dirent() Dirent {
	next := uint64(l.runPos)<<8 | uint64(l.index)
	if l.index >= l.run.Count {
		next = uint64(l.pos) << 8
	}
	return Dirent{
		Name:   string(l.name()),
		Ref:    l.ref(),
		Number: l.number(),
		Type:   typeMode(l.entry.Type),
		Next:   next,
	}
}

// newListing returns a listing at offset pos, which lies in the metadata block
// at block of the directory table.
func (in *Inode) newListing(block uint32, pos int64) (*dirReader, error) {
	if !in.IsDir() {
		return nil, syscall.ENOTDIR
	}
	l := &dirReader{size: int64(in.d.DirSize) - disk.EmptyDirSize, pos: pos, inodes: in.r.sb.Inodes}
	if l.size <= 0 || pos >= l.size {
		l.size = 0
		return l, nil
	}
	var err error
	off := (int64(in.d.DirOffset) + pos) % disk.MetadataSize
	if pos == 0 {
		off = int64(in.d.DirOffset)
	}
	l.c, err = in.r.cursor(&in.r.dirs, uint64(block), int(off))
	return l, err
}

// listing returns the listing at a place that a Dirent's Next named.
func (in *Inode) listing(from uint64) (*dirReader, error) {
	pos := int64(from >> 8)
	if !in.IsDir() || pos == 0 || pos >= int64(in.d.DirSize)-disk.EmptyDirSize {
		l, err := in.newListing(in.d.DirBlock, pos)
		if err != nil {
			return nil, err
		}
		return l, l.pass(uint32(from & 0xff))
	}
	x, err := in.searchIndex(func(x disk.DirIndex, _ []byte) bool { return int64(x.Position) <= pos })
	if err != nil {
		return nil, err
	}
	l, err := in.newListing(x.Block, int64(x.Position))
	if err != nil {
		return nil, err
	}
	if err := l.c.skip(pos - l.pos); err != nil {
		return nil, err
	}
	l.pos = pos
	return l, l.pass(uint32(from & 0xff))
}

// pass steps over n entries.
func (l *dirReader) pass(n uint32) error {
	for range n {
		if ok, err := l.next(); !ok || err != nil {
			return err
		}
	}
	return nil
}

// listingFor returns the listing at the last place that the directory index
// knows to be not behind name.
func (in *Inode) listingFor(name string) (*dirReader, error) {
	if !in.IsDir() {
		return nil, syscall.ENOTDIR
	}
	x, err := in.searchIndex(func(_ disk.DirIndex, first []byte) bool { return string(first) <= name })
	if err != nil {
		return nil, err
	}
	return in.newListing(x.Block, int64(x.Position))
}

// searchIndex returns the last entry of the directory index before the first
// one that before does not hold for, or the listing's start.
func (in *Inode) searchIndex(before func(x disk.DirIndex, first []byte) bool) (disk.DirIndex, error) {
	best := disk.DirIndex{Block: in.d.DirBlock}
	if in.d.Indexes == 0 {
		return best, nil
	}
	c := in.r.cursorAt(&in.r.inodes, in.tail)
	var buf [disk.DirIndexSize]byte
	var name [disk.MaxNameLen + 1]byte
	for range in.d.Indexes {
		if err := c.read(buf[:]); err != nil {
			return best, err
		}
		x, err := disk.DecodeDirIndex(buf[:])
		if err != nil {
			return best, c.fail("directory index", "%w", err)
		}
		if err := c.read(name[:x.NameSize]); err != nil {
			return best, err
		}
		if int64(x.Position) >= int64(in.d.DirSize) {
			return best, c.fail("directory index", "position %d in a listing of %d bytes", x.Position, in.d.DirSize)
		}
		if !before(x, name[:x.NameSize]) {
			break
		}
		best = x
	}
	return best, nil
}

// next reads an entry; false is the end.
func (l *dirReader) next() (bool, error) {
	if l.header = l.index >= l.run.Count; l.header {
		if l.pos >= l.size {
			return false, nil
		}
		if err := l.readHeader(); err != nil {
			return false, err
		}
	}
	var buf [disk.DirEntrySize]byte
	if err := l.c.read(buf[:]); err != nil {
		return false, err
	}
	e, err := disk.DecodeDirEntry(buf[:])
	if err != nil {
		return false, l.c.fail("directory", "%w", err)
	}
	if e.NameSize > disk.MaxNameLen {
		return false, l.c.fail("directory", "name of %d bytes", e.NameSize)
	}
	l.prevLen = copy(l.prev[:], l.nameBuf[:l.entry.NameSize])
	l.entry = e
	if err := l.c.read(l.nameBuf[:e.NameSize]); err != nil {
		return false, err
	}
	l.index++
	l.pos += int64(disk.DirEntrySize + e.NameSize)
	if l.pos > l.size {
		return false, l.c.fail("directory", "entry passes the end of the listing")
	}
	return true, l.check()
}

func (l *dirReader) readHeader() error {
	var buf [disk.DirHeaderSize]byte
	if _, err := l.c.load(); err != nil {
		return err
	}
	l.runBlock = l.c.pos.block
	if err := l.c.read(buf[:]); err != nil {
		return err
	}
	h, err := disk.DecodeDirHeader(buf[:])
	if err != nil {
		l.tooMany = true
		return l.c.fail("directory", "%w", err)
	}
	l.runPos = l.pos
	l.run, l.index = h, 0
	l.pos += disk.DirHeaderSize
	return nil
}

// check refuses entries that would lead a caller astray.
func (l *dirReader) check() error {
	rule, err := l.problem()
	if err != nil && l.lenient != nil {
		l.lenient(rule, err)
		return nil
	}
	return err
}

func (l *dirReader) problem() (CheckRule, error) {
	name := l.name()
	switch {
	case string(name) == "." || string(name) == "..":
		return RuleName, l.c.fail("directory", "entry named %q", name)
	case bytes.IndexByte(name, '/') >= 0 || bytes.IndexByte(name, 0) >= 0:
		return RuleName, l.c.fail("directory", "name %q has a slash or a NUL", name)
	case l.entry.Type < disk.TypeDir || l.entry.Type > disk.TypeSocket:
		return RuleDirectory, l.c.fail("directory", "entry of type %d", l.entry.Type)
	case l.prevLen > 0 && bytes.Compare(l.prev[:l.prevLen], name) >= 0:
		return RuleOrder, l.c.fail("directory", "name %q after %q", name, l.prev[:l.prevLen])
	}
	if n := int64(l.run.Number) + int64(l.entry.Delta); n < 1 || n > int64(l.inodes) {
		return RuleDirectory, l.c.fail("directory", "inode number %d of %d", n, l.inodes)
	}
	return "", nil
}
