package squashfs

import (
	"io/fs"
	"time"

	"hpcimg/squashfs/internal/disk"
)

// InodeRef is the place of an inode in the inode table of its image. Two
// inodes are the same if their references are.
type InodeRef uint64

// Inode is a file, directory, link or device of an image, without a name. It
// is what a FUSE server works with; [FileInfo] is the fs.FS side of it. An
// Inode is immutable and may be used by many goroutines.
type Inode struct {
	r      *Reader
	ref    InodeRef
	d      disk.Inode
	uid    uint32
	gid    uint32
	at     int64   // of the metadata block, for errors
	tail   metaPos // behind the fixed part
	target string
	blocks *blockList // regular files
}

// Root returns the inode of the root directory.
func (r *Reader) Root() *Inode { return r.root }

// Inode returns the inode at ref, which [Inode.Ref] or [Dirent] gave.
func (r *Reader) Inode(ref InodeRef) (*Inode, error) {
	c, err := r.cursor(&r.inodes, disk.Ref(ref).Block(), disk.Ref(ref).Offset())
	if err != nil {
		return nil, err
	}
	return r.readInode(&c)
}

// readInode reads and checks the inode at c.
func (r *Reader) readInode(c *metaCursor) (*Inode, error) {
	in, err := r.parseInode(c)
	if err == nil {
		err = in.finish(c)
	}
	if err != nil {
		return nil, err
	}
	return in, nil
}

// parseInode reads the fixed part of the inode at c.
func (r *Reader) parseInode(c *metaCursor) (*Inode, error) {
	if _, err := c.load(); err != nil {
		return nil, err
	}
	in := &Inode{r: r, at: c.pos.block}
	in.ref = InodeRef(disk.NewRef(uint64(c.pos.block-r.inodes.start), uint16(c.pos.off)))
	var buf [disk.MaxInodeSize]byte
	if err := c.read(buf[:disk.InodeHeaderSize]); err != nil {
		return nil, err
	}
	size := disk.InodeSize(uint16(buf[0]) | uint16(buf[1])<<8)
	if size > disk.InodeHeaderSize {
		if err := c.read(buf[disk.InodeHeaderSize:size]); err != nil {
			return nil, err
		}
	}
	if _, err := disk.DecodeInode(buf[:max(size, disk.InodeHeaderSize)], &in.d); err != nil {
		return nil, formatError("inode", in.at, err)
	}
	in.tail = c.pos
	return in, nil
}

// finish checks the inode and reads what its kind needs, from c, which is
// behind the fixed part and for links ends behind the whole.
func (in *Inode) finish(c *metaCursor) error {
	r := in.r
	if int(in.d.UID) >= len(r.ids) || int(in.d.GID) >= len(r.ids) {
		return in.failf("uid index %d, gid index %d in an id table of %d", in.d.UID, in.d.GID, len(r.ids))
	}
	in.uid, in.gid = r.ids[in.d.UID], r.ids[in.d.GID]
	if in.d.Number == 0 || in.d.Number > r.sb.Inodes {
		return in.failf("inode number %d of %d", in.d.Number, r.sb.Inodes)
	}
	switch disk.BasicType(in.d.Type) {
	case disk.TypeFile:
		return in.finishFile()
	case disk.TypeSymlink:
		return in.finishSymlink(c)
	}
	return nil
}

// maxTarget is the longest symbolic link target that any reader accepts.
const maxTarget = disk.MaxTargetLen + 1

func (in *Inode) finishSymlink(c *metaCursor) error {
	n := in.d.TargetSize
	if n == 0 || n > maxTarget {
		return in.failf("symbolic link target of %d bytes", n)
	}
	buf := make([]byte, n, n+4)
	if err := c.read(buf); err != nil {
		return err
	}
	in.target = string(buf)
	for i := range len(in.target) {
		if in.target[i] == 0 {
			return in.failf("symbolic link target with a NUL")
		}
	}
	if in.d.Type == disk.TypeExtSymlink {
		x := buf[n : n+4]
		if err := c.read(x); err != nil {
			return err
		}
		in.d.Xattr = uint32(x[0]) | uint32(x[1])<<8 | uint32(x[2])<<16 | uint32(x[3])<<24
	}
	return nil
}

func (in *Inode) failf(format string, args ...any) error {
	return formatErrorf("inode", in.at, format, args...)
}

// Ref returns the inode's reference.
func (in *Inode) Ref() InodeRef { return in.ref }

// Number returns the inode number, which is between 1 and [Reader.Inodes].
func (in *Inode) Number() uint32 { return in.d.Number }

// Mode returns type and permission bits.
func (in *Inode) Mode() fs.FileMode {
	return fileMode(disk.BasicType(in.d.Type), in.d.Mode)
}

// UID returns the owner.
func (in *Inode) UID() uint32 { return in.uid }

// GID returns the group.
func (in *Inode) GID() uint32 { return in.gid }

// ModTime returns the modification time, which has a resolution of a second.
func (in *Inode) ModTime() time.Time { return time.Unix(int64(in.d.MTime), 0).UTC() }

// LinkCount returns the number of links.
func (in *Inode) LinkCount() uint32 { return in.d.Links }

// Size returns the length of a file or of a link's target, the length of a
// directory's listing, or 0.
func (in *Inode) Size() int64 {
	switch disk.BasicType(in.d.Type) {
	case disk.TypeFile:
		return int64(in.d.Size)
	case disk.TypeSymlink:
		return int64(len(in.target))
	case disk.TypeDir:
		return int64(in.d.DirSize)
	}
	return 0
}

// Rdev returns the number of a device.
func (in *Inode) Rdev() Rdev {
	major, minor := disk.DecodeDevice(in.d.Device)
	return Rdev{Major: major, Minor: minor}
}

// Readlink returns the target of a symbolic link, "" for anything else.
func (in *Inode) Readlink() string { return in.target }

// IsDir reports whether the inode is a directory.
func (in *Inode) IsDir() bool { return disk.BasicType(in.d.Type) == disk.TypeDir }

func (in *Inode) isRegular() bool { return disk.BasicType(in.d.Type) == disk.TypeFile }

func (in *Inode) isSymlink() bool { return disk.BasicType(in.d.Type) == disk.TypeSymlink }

// InodeByNumber returns the inode of that number. It uses the export table;
// for images without one, the first call reads all inodes once and keeps
// eight bytes for each.
func (r *Reader) InodeByNumber(n uint32) (*Inode, error) {
	if n == 0 || n > r.sb.Inodes {
		return nil, fs.ErrNotExist
	}
	ref, err := r.refByNumber(n)
	if err != nil {
		return nil, err
	}
	in, err := r.Inode(ref)
	if err != nil {
		return nil, err
	}
	if in.d.Number != n {
		return nil, formatErrorf("export table", r.inodes.end, "inode %d is entered as %d", in.d.Number, n)
	}
	return in, nil
}

func (r *Reader) refByNumber(n uint32) (InodeRef, error) {
	if r.exportTable != nil {
		var buf [disk.ExportSize]byte
		if err := r.exportTable.read(r, buf[:], int64(n)-1); err != nil {
			return 0, err
		}
		var ref uint64
		for i, b := range buf {
			ref |= uint64(b) << (8 * i)
		}
		return InodeRef(ref), nil
	}
	r.numbersOnce.Do(func() { r.numbers, r.numbersErr = r.scanNumbers() })
	if r.numbersErr != nil {
		return 0, r.numbersErr
	}
	ref, ok := r.numbers[n]
	if !ok {
		return 0, fs.ErrNotExist
	}
	return ref, nil
}

// scanNumbers reads the inode table from one end to the other.
func (r *Reader) scanNumbers() (map[uint32]InodeRef, error) {
	numbers := make(map[uint32]InodeRef)
	err := r.scanInodes(func(in *Inode) error {
		numbers[in.d.Number] = in.ref
		return nil
	})
	return numbers, err
}

// scanInodes calls f for each inode of the table, in the table's order.
func (r *Reader) scanInodes(f func(*Inode) error) error {
	c, err := r.cursor(&r.inodes, 0, 0)
	if err != nil {
		return err
	}
	for range r.sb.Inodes {
		in, err := r.readInode(&c)
		if err != nil {
			return err
		}
		if err := in.skipTail(&c); err != nil {
			return err
		}
		if err := f(in); err != nil {
			return err
		}
	}
	return nil
}

// skipTail moves c from behind the fixed part to the next inode.
func (in *Inode) skipTail(c *metaCursor) error {
	switch in.d.Type {
	case disk.TypeFile, disk.TypeExtFile:
		return c.skip(4 * in.blocks.count)
	case disk.TypeExtDir:
		var buf [disk.DirIndexSize]byte
		for range in.d.Indexes {
			if err := c.read(buf[:]); err != nil {
				return err
			}
			x, err := disk.DecodeDirIndex(buf[:])
			if err != nil {
				return c.fail("directory index", "%w", err)
			}
			if err := c.skip(int64(x.NameSize)); err != nil {
				return err
			}
		}
	}
	return nil
}

// fileMode turns a basic type and permission bits into Go's.
func fileMode(t, perm uint16) fs.FileMode {
	m := fs.FileMode(perm & 0o777)
	if perm&0o4000 != 0 {
		m |= fs.ModeSetuid
	}
	if perm&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	if perm&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	return m | typeMode(t)
}

func typeMode(t uint16) fs.FileMode {
	switch t {
	case disk.TypeDir:
		return fs.ModeDir
	case disk.TypeSymlink:
		return fs.ModeSymlink
	case disk.TypeBlock:
		return fs.ModeDevice
	case disk.TypeChar:
		return fs.ModeDevice | fs.ModeCharDevice
	case disk.TypeFIFO:
		return fs.ModeNamedPipe
	case disk.TypeSocket:
		return fs.ModeSocket
	}
	return 0
}
