package squashfs

import (
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"math"
	"strings"
	"time"

	"hpcimg/squashfs/internal/disk"
)

// BuilderOptions configures a [Builder]. Compression and BlockSize must be
// those of all packs.
type BuilderOptions struct {
	Compression Compression
	Level       int // 0 is the compressor's default
	BlockSize   int // 0 is 128 KiB

	// ModTime is the time of creation in the superblock, and the time of
	// directories that nobody has added. The zero value is 1970.
	ModTime time.Time

	NoExport bool // write no export table, which NFS export needs
	AllRoot  bool // make everything belong to user and group 0
}

// PackID names a pack that has been added to a [Builder]: 0 is the first.
type PackID int

// Builder makes the tables and the superblock of an image from its entries,
// given that the contents of files are in place. It is not safe for concurrent
// use. What it writes is a function of the set of entries, of the packs and
// of the options; the order of calls does not matter but for the packs'.
type Builder struct {
	cfg      encoderConfig
	opts     BuilderOptions
	packs    []builderPack
	tree     tree
	contents arena

	lastDir  string // where the latest entry went
	lastNode nodeID
}

type builderPack struct {
	*Pack
	offset       int64
	fragmentBase int64
}

// NewBuilder returns a Builder of an image that has a root directory, mode
// 0755, owned by root, and no packs.
func NewBuilder(opts *BuilderOptions) (*Builder, error) {
	if opts == nil {
		opts = &BuilderOptions{}
	}
	cfg, err := newEncoderConfig(opts.Compression, opts.Level, opts.BlockSize)
	if err != nil {
		return nil, err
	}
	b := &Builder{cfg: cfg, opts: *opts, lastDir: "."}
	b.tree.seed = maphash.MakeSeed()
	b.tree.newNode(b.implicitDir())
	return b, nil
}

// HeaderSize returns the number of bytes at the start of an image that are
// taken by the superblock and compressor options.
func (b *Builder) HeaderSize() int64 {
	return int64(len(b.cfg.appendOptions(make([]byte, disk.SuperblockSize))))
}

// AddPack says that the pack p stands at offset in the image. Offsets that are
// multiples of 4096 allow a file system to share the blocks of a pack between
// images.
func (b *Builder) AddPack(p *Pack, offset int64) (PackID, error) {
	if p.BlockSize != b.cfg.blockSize || p.Compression.compressorID() != b.cfg.compression.compressorID() {
		return 0, fmt.Errorf("squashfs: %w: pack has compression %v and block size %d, image %v and %d",
			fs.ErrInvalid, p.Compression, p.BlockSize, b.cfg.compression, b.cfg.blockSize)
	}
	if offset < b.HeaderSize() || p.Size < 0 || offset > math.MaxInt64-p.Size {
		return 0, fmt.Errorf("squashfs: %w: pack of %d bytes at %d", fs.ErrInvalid, p.Size, offset)
	}
	for _, f := range p.Fragments {
		n := disk.StoredSize(f.Word)
		if !disk.ValidSize(f.Word) || n == 0 || n > p.BlockSize || f.Start < 0 || f.Start > p.Size-int64(n) {
			return 0, fmt.Errorf("squashfs: %w: fragment block outside of its pack", fs.ErrInvalid)
		}
	}
	base := int64(0)
	if n := len(b.packs); n > 0 {
		base = b.packs[n-1].fragmentBase + int64(len(b.packs[n-1].Fragments))
	}
	if base+int64(len(p.Fragments)) > math.MaxInt32 {
		return 0, &LimitError{What: "fragment blocks", Limit: math.MaxInt32}
	}
	b.packs = append(b.packs, builderPack{Pack: p, offset: offset, fragmentBase: base})
	return PackID(len(b.packs) - 1), nil
}

// Add adds an entry. Entries may come in any order. A directory that other
// entries lie in, and that has not been added when the image is written, has
// mode 0755 and belongs to root. Nothing of e is kept, so that a million entries
// take some 60 MB and as much again at most while tables are written. Errors
// are of type [*EntryError].
func (b *Builder) Add(e Entry) error {
	_, err := b.addNode(&e)
	return err
}

// addNode is Add, and returns the node for e.
func (b *Builder) addNode(e *Entry) (nodeID, error) {
	id, err := b.add(e)
	if err != nil {
		return 0, &EntryError{Path: e.Path, Err: err}
	}
	return id, nil
}

func (b *Builder) add(e *Entry) (nodeID, error) {
	p, err := cleanEntryPath(e.Path)
	if err != nil {
		return 0, err
	}
	n, target, err := b.newNode(e)
	if err != nil {
		return 0, err
	}
	if p == "." {
		return 0, b.tree.replace(0, n)
	}
	dir, name := ".", p
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		dir, name = p[:i], p[i+1:]
	}
	parent, err := b.makeDir(dir)
	if err != nil {
		return 0, err
	}
	if old, ok := b.tree.child(parent, name); ok {
		return old, b.tree.replace(old, n)
	}
	switch n.typ {
	case 0:
		return 0, b.tree.addLink(parent, name, target)
	case disk.TypeSymlink:
		x, err := b.tree.texts.addString(target)
		if err != nil {
			return 0, err
		}
		n.data = uint32(x)
	case disk.TypeFile:
		x, err := b.addContent(e.Content, e.Pack)
		if err != nil {
			return 0, err
		}
		n.data = uint32(x)
	}
	return b.tree.addChild(parent, name, n)
}

// newNode checks e and turns it into a node without a name. What takes room it
// leaves out; target is that of a link.
func (b *Builder) newNode(e *Entry) (n node, target string, err error) {
	if e.HardLink != "" {
		if target, err = cleanEntryPath(e.HardLink); err != nil {
			err = fmt.Errorf("hard link to %q: %w", e.HardLink, err)
		}
		return node{}, target, err
	}
	typ, err := storedType(e.Mode)
	if err != nil {
		return node{}, "", err
	}
	if len(e.Xattrs) > 0 {
		if err := checkXattrs(e.Xattrs); err != nil {
			return node{}, "", err
		}
	}
	n = node{typ: uint8(typ), mode: storedMode(e.Mode), mtime: storedTime(e.ModTime)}
	switch typ {
	case disk.TypeFile:
		if err := b.checkContent(e); err != nil {
			return node{}, "", err
		}
	case disk.TypeSymlink:
		if e.Target == "" || strings.IndexByte(e.Target, 0) >= 0 {
			return node{}, "", fmt.Errorf("%w: link target %q", fs.ErrInvalid, e.Target)
		}
		if len(e.Target) > disk.MaxTargetLen {
			return node{}, "", &LimitError{What: "bytes in a link target", Limit: disk.MaxTargetLen}
		}
	case disk.TypeBlock, disk.TypeChar:
		if e.Rdev.Major > disk.MaxDeviceMajor {
			return node{}, "", &LimitError{What: "device major numbers", Limit: disk.MaxDeviceMajor}
		}
		if e.Rdev.Minor > disk.MaxDeviceMinor {
			return node{}, "", &LimitError{What: "device minor numbers", Limit: disk.MaxDeviceMinor}
		}
		n.data = disk.EncodeDevice(e.Rdev.Major, e.Rdev.Minor)
	}
	n.owner = b.owner(e.UID, e.GID)
	n.xattrs = b.tree.xattrs.add(e.Xattrs)
	return n, e.Target, nil
}

func (b *Builder) owner(uid, gid uint32) uint32 {
	if b.opts.AllRoot {
		uid, gid = 0, 0
	}
	return b.tree.owners.add(owners{uid, gid})
}

func (b *Builder) implicitDir() node {
	return node{
		typ: disk.TypeDir, mode: 0o755, mtime: storedTime(b.opts.ModTime),
		owner: b.owner(0, 0), implicit: true,
	}
}

// makeDir returns the directory at p, a clean path, and makes it and its
// parents if they are not there.
func (b *Builder) makeDir(p string) (nodeID, error) {
	if p == b.lastDir {
		return b.lastNode, nil
	}
	id := nodeID(0)
	if p != "." {
		for name := range strings.SplitSeq(p, "/") {
			c, ok := b.tree.child(id, name)
			if !ok {
				var err error
				if c, err = b.tree.addChild(id, name, b.implicitDir()); err != nil {
					return 0, err
				}
			}
			if !b.tree.isDir(c) {
				return 0, fmt.Errorf("%q is %w", name, ErrNotDirectory)
			}
			id = c
		}
	}
	b.lastDir, b.lastNode = strings.Clone(p), id
	return id, nil
}

// WriteTables writes the tables to w from start on, which must not lie before
// the end of any pack, and the superblock at 0. It returns the size of the
// image, which is padded with zeros to a multiple of 4096: a loop device would
// cut off what is left over. The superblock is written last, so that an image
// that has been given up halfway is not taken for one.
func (b *Builder) WriteTables(ctx context.Context, w io.WriterAt, start int64) (int64, error) {
	if start < b.HeaderSize() {
		return 0, fmt.Errorf("squashfs: %w: tables at %d", fs.ErrInvalid, start)
	}
	for _, p := range b.packs {
		if start < p.offset+p.Size {
			return 0, fmt.Errorf("squashfs: %w: tables at %d overlap a pack", fs.ErrInvalid, start)
		}
	}
	t, err := newTableSet(ctx, b)
	if err != nil {
		return 0, err
	}
	size, err := t.write(ctx, w, start)
	return size, prefixed(err)
}
