package squashfs_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"hpcimg/squashfs/internal/disk"
)

// craft lays out small images by hand, with everything uncompressed, to write
// what no writer would.
type craft struct {
	sb     disk.Superblock
	data   []byte // behind the superblock
	inodes []byte
	dirs   []byte
	frags  []disk.Fragment
	ids    []uint32
	refs   []disk.Ref // by inode number, for the export table
	root   disk.Ref
}

type craftEntry struct {
	name  string
	inode int // number
	typ   uint16
}

func newCraft() *craft {
	return &craft{ids: []uint32{0}, sb: disk.Superblock{
		BlockSize: 131072, BlockLog: 17, Compressor: disk.CompressorGzip, Flags: disk.FlagExport,
	}}
}

// inode adds an inode, whose number is the order of these calls unless in has
// one.
func (c *craft) inode(in disk.Inode, tail ...byte) int {
	n := len(c.refs) + 1
	if in.Number == 0 {
		in.Number = uint32(n)
	}
	if in.Mode == 0 {
		in.Mode = 0o755
	}
	if in.Xattr == 0 {
		in.Xattr = disk.NoXattr
	}
	c.refs = append(c.refs, disk.NewRef(0, uint16(len(c.inodes))))
	c.inodes = append(disk.AppendInode(c.inodes, &in), tail...)
	return n
}

// file adds a regular file of data blocks that are stored raw.
func (c *craft) file(contents []byte) int {
	in := disk.Inode{
		Type: disk.TypeFile, Start: uint64(disk.SuperblockSize + len(c.data)), Size: uint64(len(contents)),
		Fragment: disk.NoFragment,
	}
	var words []byte
	for block := range slices.Chunk(contents, int(c.sb.BlockSize)) {
		c.data = append(c.data, block...)
		words = binary.LittleEndian.AppendUint32(words, disk.EncodeSize(len(block), true))
	}
	return c.inode(in, words...)
}

// listing adds a directory listing of one run.
func (c *craft) listing(entries ...craftEntry) (offset uint16, size uint32) {
	start := len(c.dirs)
	if len(entries) > 0 {
		c.dirs = disk.AppendDirHeader(c.dirs, disk.DirHeader{Count: uint32(len(entries)), Number: 1})
	}
	for _, e := range entries {
		c.dirs = disk.AppendDirEntry(c.dirs, disk.DirEntry{
			Offset: uint16(c.refs[e.inode-1].Offset()), Delta: int16(e.inode - 1), Type: e.typ,
		}, e.name)
	}
	return uint16(start), uint32(len(c.dirs)-start) + disk.EmptyDirSize
}

// dir adds a directory.
func (c *craft) dir(parent int, entries ...craftEntry) int {
	off, size := c.listing(entries...)
	links := uint32(2)
	for _, e := range entries {
		if e.typ == disk.TypeDir {
			links++
		}
	}
	return c.inode(disk.Inode{
		Type: disk.TypeExtDir, Links: links, DirOffset: off, DirSize: size, Parent: uint32(parent),
	})
}

// setRoot adds the root directory.
func (c *craft) setRoot(entries ...craftEntry) int {
	n := c.dir(len(c.refs)+2, entries...)
	c.root = c.refs[n-1]
	return n
}

// build returns the image, padded. What is set in the superblock beforehand
// stays.
func (c *craft) build(t *testing.T) []byte {
	t.Helper()
	if len(c.inodes) > disk.MetadataSize || len(c.dirs) > disk.MetadataSize {
		t.Fatal("crafted tables do not fit one metadata block")
	}
	img := make([]byte, disk.SuperblockSize)
	img = append(img, c.data...)
	metadata := func(b []byte) uint64 {
		pos := uint64(len(img))
		img = binary.LittleEndian.AppendUint16(img, disk.MetadataHeader(len(b), true))
		img = append(img, b...)
		return pos
	}
	lookup := func(b []byte) uint64 {
		pos := metadata(b)
		index := uint64(len(img))
		img = binary.LittleEndian.AppendUint64(img, pos)
		return index
	}
	sb := c.sb
	sb.InodeTable = metadata(c.inodes)
	sb.DirTable = metadata(c.dirs)
	sb.FragTable = disk.NoTable
	sb.XattrTable = disk.NoTable
	if sb.Fragments = uint32(len(c.frags)); len(c.frags) > 0 {
		var b []byte
		for _, f := range c.frags {
			b = disk.AppendFragment(b, f)
		}
		sb.FragTable = lookup(b)
	}
	var b []byte
	for _, r := range c.refs {
		b = binary.LittleEndian.AppendUint64(b, uint64(r))
	}
	sb.ExportTable = lookup(b)
	b = nil
	for _, id := range c.ids {
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	sb.IDTable = lookup(b)
	sb.IDs = uint16(len(c.ids))
	sb.Inodes = uint32(len(c.refs))
	sb.Root = c.root
	sb.BytesUsed = uint64(len(img))
	copy(img, disk.AppendSuperblock(nil, &sb))
	return append(img, make([]byte, -len(img)&(disk.PadSize-1))...)
}
