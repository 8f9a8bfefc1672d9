package squashfs

import (
	"context"
	"fmt"
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
	cfg   encoderConfig
	opts  BuilderOptions
	packs []builderPack
	root  *treeNode
	count int

	lastDir  string // where the latest entry went
	lastNode *treeNode
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
	b := &Builder{cfg: cfg, opts: *opts}
	b.root = b.newDir("")
	b.lastDir, b.lastNode = ".", b.root
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
// mode 0755 and belongs to root. Errors are of type [*EntryError].
func (b *Builder) Add(e Entry) error {
	_, err := b.addNode(&e)
	return err
}

// addNode is Add, and returns the node for e.
func (b *Builder) addNode(e *Entry) (*treeNode, error) {
	n, err := b.add(e)
	if err != nil {
		return nil, &EntryError{Path: e.Path, Err: err}
	}
	return n, nil
}

func (b *Builder) add(e *Entry) (*treeNode, error) {
	p, err := cleanEntryPath(e.Path)
	if err != nil {
		return nil, err
	}
	n, err := b.newNode(e)
	if err != nil {
		return nil, err
	}
	if p == "." {
		return b.root, b.root.replace(n)
	}
	dir, name := ".", p
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		dir, name = p[:i], p[i+1:]
	}
	parent, err := b.makeDir(dir)
	if err != nil {
		return nil, err
	}
	n.name = strings.Clone(name) // not the whole path
	if old := parent.child(name); old != nil {
		return old, old.replace(n)
	}
	parent.dir.add(n)
	b.count++
	return n, nil
}

// newNode checks e and turns it into a node without a name.
func (b *Builder) newNode(e *Entry) (*treeNode, error) {
	if e.HardLink != "" {
		target, err := cleanEntryPath(e.HardLink)
		if err != nil {
			return nil, fmt.Errorf("hard link to %q: %w", e.HardLink, err)
		}
		return &treeNode{target: strings.Clone(target)}, nil
	}
	typ, err := storedType(e.Mode)
	if err != nil {
		return nil, err
	}
	n := &treeNode{
		typ: typ, mode: storedMode(e.Mode),
		uid: e.UID, gid: e.GID,
		mtime: storedTime(e.ModTime),
	}
	if b.opts.AllRoot {
		n.uid, n.gid = 0, 0
	}
	if len(e.Xattrs) > 0 {
		if err := checkXattrs(e.Xattrs); err != nil {
			return nil, err
		}
		n.xattrs = e.Xattrs
	}
	switch typ {
	case disk.TypeDir:
		n.dir = &treeDir{}
	case disk.TypeFile:
		if err := b.checkContent(e); err != nil {
			return nil, err
		}
		n.content, n.pack = e.Content, int32(e.Pack)
	case disk.TypeSymlink:
		if e.Target == "" || strings.IndexByte(e.Target, 0) >= 0 {
			return nil, fmt.Errorf("%w: link target %q", fs.ErrInvalid, e.Target)
		}
		if len(e.Target) > disk.MaxTargetLen {
			return nil, &LimitError{What: "bytes in a link target", Limit: disk.MaxTargetLen}
		}
		n.target = e.Target
	case disk.TypeBlock, disk.TypeChar:
		if e.Rdev.Major > disk.MaxDeviceMajor {
			return nil, &LimitError{What: "device major numbers", Limit: disk.MaxDeviceMajor}
		}
		if e.Rdev.Minor > disk.MaxDeviceMinor {
			return nil, &LimitError{What: "device minor numbers", Limit: disk.MaxDeviceMinor}
		}
		n.device = disk.EncodeDevice(e.Rdev.Major, e.Rdev.Minor)
	}
	return n, nil
}

// checkContent checks a content's words against its pack. They may come from a
// file that somebody has stored.
func (b *Builder) checkContent(e *Entry) error {
	c := e.Content
	if c == nil || c.Size == 0 && len(c.Blocks) == 0 && c.Fragment == -1 {
		return nil
	}
	if e.Pack < 0 || int(e.Pack) >= len(b.packs) {
		return fmt.Errorf("%w: there is no pack %d", fs.ErrInvalid, e.Pack)
	}
	p := &b.packs[e.Pack]
	bs := int64(p.BlockSize)
	if c.Size < 0 || c.Start < 0 || c.Start > p.Size {
		return fmt.Errorf("%w: content of %d bytes at %d", fs.ErrInvalid, c.Size, c.Start)
	}
	if want := disk.BlockCount(uint64(c.Size), b.cfg.blockLog(), c.Fragment >= 0); want != uint64(len(c.Blocks)) {
		return fmt.Errorf("%w: content of %d bytes has %d blocks, not %d", fs.ErrInvalid, c.Size, len(c.Blocks), want)
	}
	left := p.Size - c.Start
	for _, w := range c.Blocks {
		n := disk.StoredSize(w)
		left -= int64(n)
		if !disk.ValidSize(w) || n > p.BlockSize || left < 0 {
			return fmt.Errorf("%w: content with a block outside of its pack", fs.ErrInvalid)
		}
	}
	if c.Fragment < 0 {
		return nil
	}
	if tail := c.Size % bs; tail == 0 || int(c.Fragment) >= len(p.Fragments) || int64(c.FragmentOffset)+tail > bs {
		return fmt.Errorf("%w: content with a fragment outside of its pack", fs.ErrInvalid)
	}
	return nil
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
	t, err := newTableSet(b)
	if err != nil {
		return 0, err
	}
	if err := t.encode(ctx); err != nil {
		return 0, err
	}
	size, err := t.write(w, start)
	if err != nil {
		return 0, fmt.Errorf("squashfs: %w", err)
	}
	return size, nil
}
