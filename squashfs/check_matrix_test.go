package squashfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
	"hpcimg/squashfs/internal/disk"
)

// patcher changes an image whose metadata is not compressed.
type patcher struct {
	t   *testing.T
	img []byte
	sb  disk.Superblock
}

func newPatcher(t *testing.T, tree testtree.Tree, args string) *patcher {
	t.Helper()
	dir := t.TempDir()
	tree.Dir(t, dir)
	img, err := os.ReadFile(mksquashfs(t, dir, strings.Fields("-noI -noX -noF "+args)...))
	if err != nil {
		t.Fatal(err)
	}
	sb, err := disk.DecodeSuperblock(img)
	if err != nil {
		t.Fatal(err)
	}
	return &patcher{t, img, sb}
}

// superblock writes p.sb back.
func (p *patcher) superblock() { copy(p.img, disk.AppendSuperblock(nil, &p.sb)) }

// inode returns the bytes from the inode of a file on.
func (p *patcher) inode(name string) []byte {
	p.t.Helper()
	r, err := squashfs.NewReader(bytes.NewReader(p.img), int64(len(p.img)), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	fi, err := r.Lstat(name)
	if err != nil {
		p.t.Fatal(err)
	}
	ref := disk.Ref(fi.Sys().(*squashfs.Inode).Ref())
	return p.img[p.sb.InodeTable+ref.Block()+disk.MetadataHeaderSize+uint64(ref.Offset()):]
}

// Offsets in a basic file inode.
const (
	inodeMode       = 2
	inodeNumber     = 12
	fileStart       = 16
	fileFragment    = 20
	fileFragOffset  = 24
	fileSize        = 28
	fileBlocks      = 32
	extFileXattr    = 52
	dirLinks        = 20
	symlinkLinks    = 16
	superblockFlags = 24
)

func matrixTree() testtree.Tree {
	return testtree.Tree{
		testtree.Dir(".", 0o755),
		testtree.Dir("sub", 0o755),
		testtree.File("sub/s", 0o644, "in sub"),
		testtree.File("block", 0o644, testtree.Text(1, 131072)),
		testtree.File("small", 0o644, "small file"),
		testtree.File("small2", 0o644, "another one"),
		testtree.Symlink("link", "small"),
	}
}

func le32(b []byte, off int, v uint32) { binary.LittleEndian.PutUint32(b[off:], v) }

// matrixCase is a deviation that readers of squashfs disagree about.
type matrixCase struct {
	name   string
	rule   squashfs.CheckRule
	make   func(t *testing.T) []byte
	reader bool // Reader reads all of it
}

func matrixCases() []matrixCase {
	return []matrixCase{
		{"id index gap", squashfs.RuleIndexEnd, func(t *testing.T) []byte {
			p := newPatcher(t, matrixTree(), "-no-xattrs")
			p.sb.BytesUsed += 8
			p.superblock()
			return p.img
		}, true},
		{"unpadded", squashfs.RulePadding, func(t *testing.T) []byte {
			p := newPatcher(t, matrixTree(), "-nopad")
			return p.img[:p.sb.BytesUsed]
		}, true},
		{"bytes used past the end", squashfs.RuleBytesUsed, func(t *testing.T) []byte {
			p := newPatcher(t, matrixTree(), "")
			p.sb.BytesUsed = uint64(len(p.img) + 4096)
			p.superblock()
			return p.img
		}, false},
		{"whole blocks and a fragment", squashfs.RuleTail, func(t *testing.T) []byte {
			p := newPatcher(t, matrixTree(), "")
			le32(p.inode("block"), fileFragment, 0)
			return p.img
		}, true},
		{"mode with type", squashfs.RuleMode, func(t *testing.T) []byte {
			p := newPatcher(t, matrixTree(), "")
			p.inode("small")[inodeMode+1] |= 0x80
			return p.img
		}, true},
		{"duplicate inode", squashfs.RuleDuplicate, func(t *testing.T) []byte {
			p := newPatcher(t, matrixTree(), "")
			copy(p.inode("small")[inodeNumber:inodeNumber+4], p.inode("small2")[inodeNumber:])
			return p.img
		}, true},
		{"300 entries in a run", squashfs.RuleRun, func(t *testing.T) []byte {
			c := newCraft()
			f := c.file([]byte("contents"))
			var entries []craftEntry
			for i := range 300 {
				entries = append(entries, craftEntry{fmt.Sprintf("n%03d", i), f, disk.TypeFile})
			}
			c.setRoot(entries...)
			return c.build(t)
		}, false},
		{"block above block size", squashfs.RuleBlock, func(t *testing.T) []byte {
			p := newPatcher(t, matrixTree(), "-noD")
			le32(p.inode("block"), fileBlocks, disk.EncodeSize(131073, true))
			return p.img
		}, false},
		{"zstd window", squashfs.RuleZstdWindow, func(t *testing.T) []byte {
			p := newPatcher(t, matrixTree(), "-noD -comp zstd")
			var buf bytes.Buffer
			w, err := zstd.NewWriter(&buf, zstd.WithWindowSize(8<<20))
			if err != nil {
				t.Fatal(err)
			}
			return p.replaceBlock(&buf, w)
		}, true},
		{"xz check", squashfs.RuleXZCheck, func(t *testing.T) []byte {
			p := newPatcher(t, matrixTree(), "-noD -comp xz")
			var buf bytes.Buffer
			w, err := xz.WriterConfig{CheckSum: xz.CRC64}.NewWriter(&buf)
			if err != nil {
				t.Fatal(err)
			}
			return p.replaceBlock(&buf, w)
		}, true},
		{"lz4 without options", squashfs.RuleOptions, func(t *testing.T) []byte {
			p := newPatcher(t, matrixTree(), "-comp lz4")
			p.sb.Flags &^= disk.FlagOptions
			p.superblock()
			return p.img
		}, true},
		{"block size 2048", squashfs.RuleBlockSize, func(t *testing.T) []byte {
			p := newPatcher(t, matrixTree(), "")
			p.sb.BlockSize, p.sb.BlockLog = 2048, 11
			p.superblock()
			return p.img
		}, false},
		{"block log", squashfs.RuleBlockLog, func(t *testing.T) []byte {
			p := newPatcher(t, matrixTree(), "")
			p.sb.BlockLog = 16
			p.superblock()
			return p.img
		}, false},
		{"no ids", squashfs.RuleNoIDs, func(t *testing.T) []byte {
			p := newPatcher(t, matrixTree(), "")
			p.sb.IDs = 0
			p.superblock()
			return p.img
		}, false},
		{"symlink of 4096", squashfs.RuleSymlink4096, func(t *testing.T) []byte {
			c := newCraft()
			target := bytes.Repeat([]byte("abcdefg/"), 512)
			l := c.inode(disk.Inode{Type: disk.TypeSymlink, Links: 1, TargetSize: uint32(len(target))}, target...)
			c.setRoot(craftEntry{"link", l, disk.TypeSymlink})
			return c.build(t)
		}, true},
		{"xattr index", squashfs.RuleXattr, func(t *testing.T) []byte {
			tree := append(matrixTree(), testtree.File("x", 0o644, "x", testtree.Xattr("user.a", "b")))
			p := newPatcher(t, tree, "")
			le32(p.inode("x"), extFileXattr, 7)
			return p.img
		}, false},
	}
}

func TestCheckMatrix(t *testing.T) {
	for _, tc := range matrixCases() {
		t.Run(tc.name, func(t *testing.T) {
			img := tc.make(t)
			report := checkImage(t, img, nil)
			if !slices.ContainsFunc(report.Findings, func(f squashfs.Finding) bool { return f.Rule == tc.rule }) {
				t.Errorf("no finding of %s in %+v", tc.rule, report.Findings)
			}
			if report.OK() {
				t.Error("report is OK")
			}
			if got := tc.rule.RefusedBy()&squashfs.ToolReader == 0; got != tc.reader && tc.rule != squashfs.RuleBlockLog {
				t.Errorf("RefusedBy = %v", tc.rule.RefusedBy())
			}
			err := readEverything(img)
			if tc.reader && err != nil || !tc.reader && !errors.Is(err, squashfs.ErrFormat) {
				t.Errorf("Reader: %v, want success: %v", err, tc.reader)
			}
		})
	}
}

// replaceBlock puts the only data block through an encoder into the room that
// it had when it was stored raw.
func (p *patcher) replaceBlock(buf *bytes.Buffer, w io.WriteCloser) []byte {
	p.t.Helper()
	in := p.inode("block")
	start := binary.LittleEndian.Uint32(in[fileStart:])
	_, err := w.Write(p.img[start : start+131072])
	if err := errors.Join(err, w.Close()); err != nil {
		p.t.Fatal(err)
	}
	copy(p.img[start:], buf.Bytes())
	le32(in, fileBlocks, disk.EncodeSize(buf.Len(), false))
	return p.img
}

// readEverything opens an image and reads all that it has.
func readEverything(img []byte) error {
	r, err := squashfs.NewReader(bytes.NewReader(img), int64(len(img)), nil)
	if err != nil {
		return err
	}
	return readTree(r)
}

// readTree reads all files, links and attributes of a file system. A directory
// that is empty where it cannot be is an error, as this is how kernels say so.
func readTree(fsys fs.FS) error {
	n := 0
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n++
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if x, ok := fi.(*squashfs.FileInfo); ok {
			if _, err := x.Xattrs(); err != nil {
				return err
			}
		}
		if !d.Type().IsRegular() {
			return nil
		}
		f, err := fsys.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(io.Discard, f)
		return err
	})
	if err == nil && n < 2 {
		err = errors.New("empty file system")
	}
	return err
}

// Deviations that no reader should see, in images made by hand or by changing
// one thing of a good one.
func TestCheckCrafted(t *testing.T) {
	patched := func(args string, f func(p *patcher)) func(t *testing.T) []byte {
		return func(t *testing.T) []byte {
			p := newPatcher(t, matrixTree(), args)
			f(p)
			return p.img
		}
	}
	crafted := func(f func(c *craft)) func(t *testing.T) []byte {
		return func(t *testing.T) []byte {
			c := newCraft()
			f(c)
			return c.build(t)
		}
	}
	named := func(names ...string) func(t *testing.T) []byte {
		return crafted(func(c *craft) {
			f := c.file([]byte("contents"))
			c.refs = slices.Clone(c.refs)
			var entries []craftEntry
			for _, n := range names {
				entries = append(entries, craftEntry{n, f, disk.TypeFile})
			}
			c.setRoot(entries...)
		})
	}
	for _, tc := range []struct {
		name   string
		rule   squashfs.CheckRule
		make   func(t *testing.T) []byte
		reader bool
	}{
		{"..", squashfs.RuleName, named(".."), false},
		{".", squashfs.RuleName, named("."), false},
		{"slash", squashfs.RuleName, named("a/b"), false},
		{"traversal", squashfs.RuleName, named("../../zz"), false},
		{"NUL", squashfs.RuleName, named("a\x00b"), false},
		{"name of 256", squashfs.RuleDirectory, named(strings.Repeat("n", 256)), false},
		{"unsorted", squashfs.RuleOrder, named("b", "a"), false},
		{"twice", squashfs.RuleOrder, named("a", "a"), false},
		{"link count", squashfs.RuleLinkCount, named("a", "b"), true},
		{"directory twice", squashfs.RuleDirLoop, crafted(func(c *craft) {
			d := c.dir(2)
			c.setRoot(craftEntry{"a", d, disk.TypeDir}, craftEntry{"b", d, disk.TypeDir})
		}), false},
		{"directory in two", squashfs.RuleDirLoop, crafted(func(c *craft) {
			d := c.dir(2)
			e := c.dir(3, craftEntry{"d", d, disk.TypeDir})
			c.setRoot(craftEntry{"a", d, disk.TypeDir}, craftEntry{"b", e, disk.TypeDir})
		}), false},
		{"root in itself", squashfs.RuleDirLoop, crafted(func(c *craft) {
			c.refs = append(c.refs, 0) // what setRoot is about to add
			off, size := c.listing(craftEntry{"loop", 1, disk.TypeDir})
			c.refs = nil
			n := c.inode(disk.Inode{Type: disk.TypeDir, Links: 3, DirOffset: off, DirSize: size, Parent: 2})
			c.root = c.refs[n-1]
		}), false},
		{"dangling", squashfs.RuleDangling, crafted(func(c *craft) {
			f := c.file([]byte("x"))
			c.refs = append(c.refs, disk.NewRef(0, uint16(len(c.inodes)-8)))
			off, size := c.listing(craftEntry{"a", f, disk.TypeFile}, craftEntry{"b", 2, disk.TypeFile})
			c.refs = c.refs[:1]
			n := c.inode(disk.Inode{Type: disk.TypeDir, Links: 2, DirOffset: off, DirSize: size, Parent: 3})
			c.root = c.refs[n-1]
		}), false},
		{"entry type", squashfs.RuleEntryType, crafted(func(c *craft) {
			c.setRoot(craftEntry{"a", c.file([]byte("x")), disk.TypeFIFO})
		}), false},
		{"entry number", squashfs.RuleEntryNumber, patched("", func(p *patcher) {
			le32(p.inode("small"), inodeNumber, 2)
		}), true},
		{"inode number 0", squashfs.RuleInodeNumber, patched("", func(p *patcher) { le32(p.inode("small"), inodeNumber, 0) }), false},
		{"inode number high", squashfs.RuleInodeNumber, patched("", func(p *patcher) { le32(p.inode("small"), inodeNumber, 99) }), false},
		{"inode count", squashfs.RuleInodeCount, patched("-no-exports", func(p *patcher) { p.sb.Inodes++; p.superblock() }), true},
		{"unreachable", squashfs.RuleUnreachable, crafted(func(c *craft) {
			c.inode(disk.Inode{Type: disk.TypeFIFO, Links: 1})
			c.setRoot(craftEntry{"a", c.file([]byte("x")), disk.TypeFile})
		}), true},
		{"symlink link count", squashfs.RuleLinkCount, patched("", func(p *patcher) { le32(p.inode("link"), symlinkLinks, 5) }), true},
		{"directory link count", squashfs.RuleLinkCount, patched("", func(p *patcher) { le32(p.inode("sub"), dirLinks, 5) }), true},
		{"parent", squashfs.RuleParent, crafted(func(c *craft) {
			d := c.dir(1)
			c.setRoot(craftEntry{"a", d, disk.TypeDir})
		}), true},
		{"export table", squashfs.RuleExport, patched("", func(p *patcher) {
			at := binary.LittleEndian.Uint64(p.img[p.sb.ExportTable:]) + disk.MetadataHeaderSize
			a, b := p.img[at:at+8], p.img[at+8:at+16]
			saved := bytes.Clone(a)
			copy(a, b)
			copy(b, saved)
		}), true},
		{"export flag", squashfs.RuleFlags, patched("", func(p *patcher) { p.sb.Flags &^= disk.FlagExport; p.superblock() }), true},
		{"check flag", squashfs.RuleCheckFlag, patched("", func(p *patcher) { p.sb.Flags |= disk.FlagCheck; p.superblock() }), true},
		{"overlapping a table", squashfs.RuleOverlap, patched("-noD", func(p *patcher) {
			le32(p.inode("block"), fileStart, uint32(p.sb.InodeTable)-131072+16)
		}), true},
		{"overlapping blocks", squashfs.RuleOverlap, crafted(func(c *craft) {
			a := c.file(testtree.Bytes(1, 5000))
			in := disk.Inode{Type: disk.TypeFile, Start: disk.SuperblockSize + 100, Size: 4000, Fragment: disk.NoFragment}
			b := c.inode(in, binary.LittleEndian.AppendUint32(nil, disk.EncodeSize(4000, true))...)
			c.setRoot(craftEntry{"a", a, disk.TypeFile}, craftEntry{"b", b, disk.TypeFile})
		}), true},
		{"block outside", squashfs.RuleBlock, patched("-noD", func(p *patcher) {
			le32(p.inode("block"), fileStart, uint32(len(p.img)))
		}), false},
		{"block too short", squashfs.RuleData, patched("-noD", func(p *patcher) {
			le32(p.inode("block"), fileBlocks, disk.EncodeSize(100, true))
		}), false},
		{"damaged block", squashfs.RuleData, patched("", func(p *patcher) {
			start := binary.LittleEndian.Uint32(p.inode("block")[fileStart:])
			for i := range 64 {
				p.img[int(start)+1000+i] ^= 0x55
			}
		}), false},
		{"fragments sharing", squashfs.RuleShare, patched("", func(p *patcher) {
			in := p.inode("small2")
			le32(in, fileFragOffset, binary.LittleEndian.Uint32(in[fileFragOffset:])-1)
		}), true},
		{"beyond the fragment", squashfs.RuleFragment, patched("", func(p *patcher) {
			le32(p.inode("small2"), fileSize, 2000)
		}), false},
		{"fragment index", squashfs.RuleInode, patched("", func(p *patcher) {
			le32(p.inode("small2"), fileFragment, 9)
		}), false},
		{"unused fragment", squashfs.RuleUnused, crafted(func(c *craft) {
			c.setRoot(craftEntry{"a", c.file([]byte("x")), disk.TypeFile})
			c.frags = append(c.frags, disk.Fragment{Start: disk.SuperblockSize, Word: disk.EncodeSize(1, true)})
		}), true},
		{"enormous file", squashfs.RuleInode, crafted(func(c *craft) {
			f := c.inode(disk.Inode{Type: disk.TypeExtFile, Links: 1, Size: 1 << 62, Fragment: disk.NoFragment})
			c.setRoot(craftEntry{"a", f, disk.TypeFile})
		}), false},
		{"symlink of 5000", squashfs.RuleInode, crafted(func(c *craft) {
			l := c.inode(disk.Inode{Type: disk.TypeSymlink, Links: 1, TargetSize: 5000}, make([]byte, 5000)...)
			c.setRoot(craftEntry{"a", l, disk.TypeSymlink})
		}), false},
		{"uid index", squashfs.RuleInode, crafted(func(c *craft) {
			f := c.inode(disk.Inode{Type: disk.TypeFIFO, Links: 1, UID: 5})
			c.setRoot(craftEntry{"a", f, disk.TypeFIFO})
		}), false},
		{"no padding to 4 KiB", squashfs.RulePadding4K, func(t *testing.T) []byte {
			p := newPatcher(t, matrixTree(), "")
			return p.img[:(p.sb.BytesUsed+511)&^511]
		}, true},
		{"compressor", squashfs.RuleCompressor, patched("", func(p *patcher) { p.sb.Compressor = 2; p.superblock() }), false},
		{"truncated", squashfs.RuleSuperblock, func(*testing.T) []byte { return []byte("hsqs") }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			img := tc.make(t)
			report := checkImage(t, img, nil)
			if !slices.ContainsFunc(report.Findings, func(f squashfs.Finding) bool { return f.Rule == tc.rule }) {
				t.Errorf("no finding of %s in %+v", tc.rule, report.Findings)
			}
			err := readEverything(img)
			if tc.reader && err != nil || !tc.reader && !errors.Is(err, squashfs.ErrFormat) && !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("Reader: %v, want success: %v", err, tc.reader)
			}
		})
	}
}
