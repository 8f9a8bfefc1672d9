package disk_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hpcimg/squashfs/internal/disk"
)

// inodes returns one of each of the 14 kinds, all fields that it has set.
func inodes() []disk.Inode {
	base := disk.Inode{Mode: 0o7654, UID: 1, GID: 65535, MTime: 1 << 31, Number: 77, Links: 3, Xattr: disk.NoXattr, Fragment: disk.NoFragment}
	var all []disk.Inode
	for typ := uint16(disk.TypeDir); typ <= disk.TypeExtSocket; typ++ {
		in := base
		in.Type = typ
		switch typ {
		case disk.TypeExtDir:
			in.Indexes, in.Xattr = 5, 6
			fallthrough
		case disk.TypeDir:
			in.DirBlock, in.DirOffset, in.DirSize, in.Parent = 1<<20, 8191, 65535, 9
		case disk.TypeExtFile:
			in.Start, in.Size, in.Sparse, in.Xattr, in.Fragment, in.FragOffset = 1<<40, 1<<41, 1<<39, 4, 8, 1<<17
		case disk.TypeFile:
			in.Start, in.Size, in.Fragment, in.FragOffset, in.Links = 1<<31, 1<<32-1, 7, 100, 1
		case disk.TypeSymlink, disk.TypeExtSymlink:
			in.TargetSize = 4095
		case disk.TypeExtBlock, disk.TypeExtChar:
			in.Xattr = 0
			fallthrough
		case disk.TypeBlock, disk.TypeChar:
			in.Device = disk.EncodeDevice(259, 70000)
		case disk.TypeExtFIFO, disk.TypeExtSocket:
			in.Xattr = 12
		}
		all = append(all, in)
	}
	return all
}

func TestInodeRoundTrip(t *testing.T) {
	for _, want := range inodes() {
		b := disk.AppendInode(nil, &want)
		if len(b) != disk.InodeSize(want.Type) || len(b) > disk.MaxInodeSize {
			t.Errorf("type %d: %d bytes, want %d", want.Type, len(b), disk.InodeSize(want.Type))
		}
		var got disk.Inode
		n, err := disk.DecodeInode(b, &got)
		if err != nil || n != len(b) {
			t.Errorf("type %d: %d, %v", want.Type, n, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("type %d: (-want +got)\n%s", want.Type, d)
		}
		for short := range b {
			if _, err := disk.DecodeInode(b[:short], &got); !errors.Is(err, disk.ErrShort) {
				t.Errorf("type %d: %d of %d bytes: %v", want.Type, short, len(b), err)
			}
		}
	}
	for _, typ := range []byte{0, 15, 255} {
		b := make([]byte, disk.MaxInodeSize)
		b[0] = typ
		if _, err := disk.DecodeInode(b, new(disk.Inode)); err == nil {
			t.Errorf("type %d is accepted", typ)
		}
	}
}

// FuzzInode: what is decoded encodes to the same bytes.
func FuzzInode(f *testing.F) {
	for _, in := range inodes() {
		f.Add(disk.AppendInode(nil, &in))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var in disk.Inode
		n, err := disk.DecodeInode(b, &in)
		if err != nil {
			return
		}
		if got := disk.AppendInode(nil, &in); !bytes.Equal(got, b[:n]) {
			t.Errorf("%x becomes %x", b[:n], got)
		}
	})
}

func TestSuperblockRoundTrip(t *testing.T) {
	want := disk.Superblock{
		Inodes: 1, ModTime: 2, BlockSize: 131072, Fragments: 3, Compressor: disk.CompressorZstd, BlockLog: 17,
		Flags: disk.FlagExport, IDs: 4, Root: disk.NewRef(5, 6), BytesUsed: 7, IDTable: 8, XattrTable: disk.NoTable,
		InodeTable: 9, DirTable: 10, FragTable: 11, ExportTable: 12,
	}
	b := disk.AppendSuperblock(nil, &want)
	if len(b) != disk.SuperblockSize {
		t.Fatalf("%d bytes", len(b))
	}
	got, err := disk.DecodeSuperblock(b)
	if err != nil || got != want {
		t.Errorf("%v: %s", err, cmp.Diff(want, got))
	}
	if _, err := disk.DecodeSuperblock(b[:95]); !errors.Is(err, disk.ErrShort) {
		t.Errorf("95 bytes: %v", err)
	}
	for _, at := range []int{0, 28, 30} {
		bad := bytes.Clone(b)
		bad[at]++
		if _, err := disk.DecodeSuperblock(bad); err == nil {
			t.Errorf("byte %d changed: accepted", at)
		}
	}
}

func TestDevice(t *testing.T) {
	for _, d := range [][2]uint32{{0, 0}, {1, 3}, {259, 70000}, {disk.MaxDeviceMajor, disk.MaxDeviceMinor}, {8, 255}, {8, 256}} {
		major, minor := disk.DecodeDevice(disk.EncodeDevice(d[0], d[1]))
		if major != d[0] || minor != d[1] {
			t.Errorf("%v becomes %d, %d", d, major, minor)
		}
	}
	if got := disk.EncodeDevice(1, 3); got != 0x103 {
		t.Errorf("1:3 is %#x", got)
	}
}

func TestWords(t *testing.T) {
	w := disk.EncodeSize(131072, true)
	if disk.StoredSize(w) != 131072 || !disk.StoredRaw(w) || !disk.ValidSize(w) || disk.ValidSize(w|1<<25) {
		t.Errorf("size word %#x", w)
	}
	if n, raw := disk.DecodeMetadataHeader(disk.MetadataHeader(8192, true)); n != 8192 || !raw {
		t.Errorf("metadata header: %d, %v", n, raw)
	}
	if r := disk.NewRef(1<<32, 8191); r.Block() != 1<<32 || r.Offset() != 8191 {
		t.Errorf("ref %#x", r)
	}
	for _, tt := range []struct {
		size     uint64
		fragment bool
		want     uint64
	}{{0, false, 0}, {1, false, 1}, {1, true, 0}, {4096, false, 1}, {4097, false, 2}, {4097, true, 1}, {1<<64 - 1, false, 1 << 52}} {
		if got := disk.BlockCount(tt.size, 12, tt.fragment); got != tt.want {
			t.Errorf("%+v: %d blocks", tt, got)
		}
	}
}

func TestDirRoundTrip(t *testing.T) {
	h := disk.DirHeader{Count: 256, Block: 7, Number: 8}
	if got, err := disk.DecodeDirHeader(disk.AppendDirHeader(nil, h)); err != nil || got != h {
		t.Errorf("header: %+v, %v", got, err)
	}
	h.Count = 257
	if _, err := disk.DecodeDirHeader(disk.AppendDirHeader(nil, h)); err == nil {
		t.Error("a run of 257 entries is accepted")
	}
	e := disk.DirEntry{Offset: 8191, Delta: -32767, Type: disk.TypeFile, NameSize: 4}
	if got, err := disk.DecodeDirEntry(disk.AppendDirEntry(nil, e, "name")); err != nil || got != e {
		t.Errorf("entry: %+v, %v", got, err)
	}
	x := disk.DirIndex{Position: 8192, Block: 99, NameSize: 4}
	if got, err := disk.DecodeDirIndex(disk.AppendDirIndex(nil, x, "name")); err != nil || got != x {
		t.Errorf("index: %+v, %v", got, err)
	}
	if _, err := disk.DecodeDirIndex(disk.AppendDirIndex(nil, x, string(make([]byte, 257)))); err == nil {
		t.Error("an index with a name of 257 bytes is accepted")
	}
}

func TestTablesRoundTrip(t *testing.T) {
	f := disk.Fragment{Start: 1 << 40, Word: disk.EncodeSize(5, true)}
	if got, err := disk.DecodeFragment(disk.AppendFragment(nil, f)); err != nil || got != f {
		t.Errorf("fragment: %+v, %v", got, err)
	}
	x := disk.XattrID{Ref: disk.NewRef(3, 4), Count: 5, Size: 6}
	if got, err := disk.DecodeXattrID(disk.AppendXattrID(nil, x)); err != nil || got != x {
		t.Errorf("xattr id: %+v, %v", got, err)
	}
	h := disk.XattrHead{Start: 9, IDs: 10}
	if got, err := disk.DecodeXattrHead(disk.AppendXattrHead(nil, h)); err != nil || got != h {
		t.Errorf("xattr head: %+v, %v", got, err)
	}
	p, n, err := disk.DecodeXattrKey(disk.AppendXattrKey(nil, disk.XattrSecurity|disk.XattrOutOfLine, "name"))
	if prefix, ok := disk.XattrPrefix(p); err != nil || n != 4 || !ok || prefix != "security." {
		t.Errorf("xattr key: %d, %d, %v", p, n, err)
	}
	if _, _, err := disk.DecodeXattrKey([]byte{3, 0, 1, 0}); err == nil {
		t.Error("xattr prefix 3 is accepted")
	}
	if n, err := disk.DecodeXattrValueSize(disk.AppendXattrValue(nil, "value")); err != nil || n != 5 {
		t.Errorf("xattr value: %d, %v", n, err)
	}
	if n := disk.LookupBlocks(513, disk.FragmentSize); n != 2 {
		t.Errorf("513 fragments in %d blocks", n)
	}
}
