package squashfs_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
	"hpcimg/squashfs/internal/disk"
)

func TestBuilderAddErrors(t *testing.T) {
	file := func(p string) squashfs.Entry { return squashfs.Entry{Path: p, Mode: 0o644} }
	dir := func(p string) squashfs.Entry { return squashfs.Entry{Path: p, Mode: fs.ModeDir | 0o755} }
	link := func(p, to string) squashfs.Entry { return squashfs.Entry{Path: p, HardLink: to} }
	with := func(e squashfs.Entry, f func(*squashfs.Entry)) squashfs.Entry { f(&e); return e }
	tests := []struct {
		name    string
		entries []squashfs.Entry // the last one, or WriteTables, fails
		want    error
	}{
		{"duplicate file", []squashfs.Entry{file("a"), file("a")}, fs.ErrExist},
		{"duplicate by another spelling", []squashfs.Entry{file("a/b"), file("/a//b/")}, fs.ErrExist},
		{"duplicate directory", []squashfs.Entry{dir("a"), dir("a")}, fs.ErrExist},
		{"root twice", []squashfs.Entry{dir("."), dir("/")}, fs.ErrExist},
		{"root is a file", []squashfs.Entry{file(".")}, squashfs.ErrNotDirectory},
		{"parent is a file", []squashfs.Entry{file("a"), file("a/b")}, squashfs.ErrNotDirectory},
		{"parent is a link", []squashfs.Entry{with(file("a"), func(e *squashfs.Entry) { e.Mode, e.Target = fs.ModeSymlink, "b" }), file("a/b")}, squashfs.ErrNotDirectory},
		{"parent is a hard link", []squashfs.Entry{file("f"), link("a", "f"), file("a/b")}, squashfs.ErrNotDirectory},
		{"file over used directory", []squashfs.Entry{file("a/b"), file("a")}, squashfs.ErrNotDirectory},
		{"way out", []squashfs.Entry{file("../a")}, fs.ErrInvalid},
		{"way out within", []squashfs.Entry{file("a/../b")}, fs.ErrInvalid},
		{"NUL", []squashfs.Entry{file("a\x00b")}, fs.ErrInvalid},
		{"long name", []squashfs.Entry{file("a/" + strings.Repeat("n", 256))}, squashfs.ErrLimit},
		{"deep", []squashfs.Entry{file(strings.Repeat("d/", 5000) + "f")}, squashfs.ErrLimit},
		{"empty target", []squashfs.Entry{with(file("l"), func(e *squashfs.Entry) { e.Mode = fs.ModeSymlink })}, fs.ErrInvalid},
		{"long target", []squashfs.Entry{with(file("l"), func(e *squashfs.Entry) { e.Mode, e.Target = fs.ModeSymlink, strings.Repeat("t", 4096) })}, squashfs.ErrLimit},
		{"irregular", []squashfs.Entry{with(file("x"), func(e *squashfs.Entry) { e.Mode = fs.ModeIrregular })}, errors.ErrUnsupported},
		{"ACL", []squashfs.Entry{with(file("x"), func(e *squashfs.Entry) { e.Xattrs = map[string]string{"system.posix_acl_access": "x"} })}, errors.ErrUnsupported},
		{"xattr without a name", []squashfs.Entry{with(file("x"), func(e *squashfs.Entry) { e.Xattrs = map[string]string{"user.": "x"} })}, errors.ErrUnsupported},
		{"large xattr", []squashfs.Entry{with(file("x"), func(e *squashfs.Entry) {
			e.Xattrs = map[string]string{"user.x": strings.Repeat("x", 65537)}
		})}, squashfs.ErrLimit},
		{"large device number", []squashfs.Entry{with(file("x"), func(e *squashfs.Entry) { e.Mode = fs.ModeDevice; e.Rdev.Major = 4096 })}, squashfs.ErrLimit},
		{"unknown pack", []squashfs.Entry{with(file("x"), func(e *squashfs.Entry) { e.Content = &squashfs.Content{Size: 1, Fragment: 0} })}, fs.ErrInvalid},
		{"hard link to nothing", []squashfs.Entry{link("a", "b")}, fs.ErrNotExist},
		{"hard link below a file", []squashfs.Entry{file("b"), link("a", "b/c")}, fs.ErrNotExist},
		{"hard link to itself", []squashfs.Entry{link("a", "a")}, fs.ErrInvalid},
		{"hard link to a directory", []squashfs.Entry{dir("d"), link("a", "d")}, fs.ErrInvalid},
		{"hard link to the root", []squashfs.Entry{link("a", "/")}, fs.ErrInvalid},
		{"hard links in a circle", []squashfs.Entry{link("a", "b"), link("b", "c"), link("c", "a")}, fs.ErrInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := squashfs.NewBuilder(nil)
			if err != nil {
				t.Fatal(err)
			}
			for i, e := range tt.entries {
				if err = b.Add(e); err != nil && i < len(tt.entries)-1 {
					t.Fatal(err)
				}
			}
			if err == nil {
				_, err = b.WriteTables(t.Context(), &memory{}, 4096)
			}
			if bad := new(squashfs.EntryError); !errors.Is(err, tt.want) || !errors.As(err, &bad) {
				t.Errorf("error %v is no EntryError with %v", err, tt.want)
			} else if strings.Count(err.Error(), "squashfs: ") != 1 {
				t.Errorf("error text %q", err)
			}
		})
	}
}

func TestBuilderOwnerLimit(t *testing.T) {
	add := func(n int) error {
		b, err := squashfs.NewBuilder(nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			// With the root's 0 there are n distinct ids.
			if err := b.Add(squashfs.Entry{Path: fmt.Sprint(i), UID: uint32(i), GID: uint32(i)}); err != nil {
				t.Fatal(err)
			}
		}
		_, err = b.WriteTables(t.Context(), &memory{}, 4096)
		return err
	}
	if err := add(65535); err != nil {
		t.Error(err)
	}
	limit := new(squashfs.LimitError)
	if err := add(65536); !errors.As(err, &limit) || limit.Limit != 65535 {
		t.Errorf("65536 ids: %v", err)
	}
}

func TestBuilderPackErrors(t *testing.T) {
	good := squashfs.Pack{Size: 4096, BlockSize: 128 << 10, Fragments: []squashfs.FragmentBlock{{Start: 0, Word: 100}}}
	bad := map[string]struct {
		offset int64
		change func(*squashfs.Pack)
	}{
		"compression":       {4096, func(p *squashfs.Pack) { p.Compression = squashfs.CompressionZstd }},
		"block size":        {4096, func(p *squashfs.Pack) { p.BlockSize = 4096 }},
		"over superblock":   {95, func(*squashfs.Pack) {}},
		"overflow":          {1<<63 - 100, func(*squashfs.Pack) {}},
		"fragment outside":  {4096, func(p *squashfs.Pack) { p.Fragments[0].Start = 4000 }},
		"fragment negative": {4096, func(p *squashfs.Pack) { p.Fragments[0].Start = -1 }},
		"fragment empty":    {4096, func(p *squashfs.Pack) { p.Fragments[0].Word = 1 << 24 }},
		"fragment large":    {4096, func(p *squashfs.Pack) { p.Size = 1 << 30; p.Fragments[0].Word = 128<<10 + 1 }},
		"fragment bits":     {4096, func(p *squashfs.Pack) { p.Fragments[0].Word = 1<<25 | 1 }},
	}
	for name, tt := range bad {
		b, _ := squashfs.NewBuilder(nil)
		p := good
		p.Fragments = []squashfs.FragmentBlock{good.Fragments[0]}
		tt.change(&p)
		if _, err := b.AddPack(&p, tt.offset); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	contents := map[string]squashfs.Content{
		"negative size":         {Size: -1, Fragment: -1},
		"too few blocks":        {Size: 300 << 10, Fragment: -1, Blocks: []uint32{5, 5}},
		"too many blocks":       {Size: 1, Fragment: -1, Blocks: []uint32{5, 5}},
		"blocks past the end":   {Size: 1, Start: 4000, Fragment: -1, Blocks: []uint32{100}},
		"start past the end":    {Size: 1, Start: 1 << 40, Fragment: -1, Blocks: []uint32{0}},
		"long block":            {Size: 1, Fragment: -1, Blocks: []uint32{128<<10 + 1}},
		"unknown bits":          {Size: 1, Fragment: -1, Blocks: []uint32{1 << 26}},
		"unknown fragment":      {Size: 1, Fragment: 1},
		"fragment of full file": {Size: 128 << 10, Fragment: 0, Blocks: []uint32{5}},
		"fragment for nothing":  {Size: 0, Fragment: 0},
		"past the fragment":     {Size: 2, Fragment: 0, FragmentOffset: 128<<10 - 1},
	}
	for name, c := range contents {
		b, _ := squashfs.NewBuilder(nil)
		id, err := b.AddPack(&good, 4096)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Add(squashfs.Entry{Path: "f", Content: &c, Pack: id}); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b, _ := squashfs.NewBuilder(nil)
	if _, err := b.AddPack(&good, 8192); err != nil {
		t.Fatal(err)
	}
	if _, err := b.WriteTables(t.Context(), &memory{}, 8192); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("tables over a pack: %v", err)
	}
}

// The order of Add does not matter, and WriteTables may be called again.
func TestBuilderOrder(t *testing.T) {
	tree := testtree.Tree{
		testtree.Hardlink("z", "b/f"),
		testtree.Dir("b", 0o700),
		testtree.File("b/f", 0o644, "", testtree.Owner(1, 2), testtree.Xattr("user.a", "b")),
		testtree.Symlink("b/l", "x", testtree.Owner(3, 4)),
		testtree.Dir(".", 0o711),
	}
	var want string
	for i := range 3 {
		b, err := squashfs.NewBuilder(nil)
		if err != nil {
			t.Fatal(err)
		}
		for j := range tree {
			if err := b.Add(entry(tree[(j+2*i)%len(tree)])); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			var m memory
			if _, err := b.WriteTables(t.Context(), &m, 4096); err != nil {
				t.Fatal(err)
			}
			if want == "" {
				want = string(m.b)
			}
			if string(m.b) != want {
				t.Error("order of entries matters")
			}
		}
	}
}

func TestBuilderSuperblock(t *testing.T) {
	var m memory
	b, err := squashfs.NewBuilder(&squashfs.BuilderOptions{Compression: squashfs.CompressionLZ4, ModTime: time.Unix(77, 0), BlockSize: 8192})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Add(squashfs.Entry{Path: "x", Xattrs: map[string]string{"user.x": "y"}}); err != nil {
		t.Fatal(err)
	}
	size, err := b.WriteTables(t.Context(), &m, 4096)
	if err != nil {
		t.Fatal(err)
	}
	sb, err := disk.DecodeSuperblock(m.b)
	if err != nil {
		t.Fatal(err)
	}
	if sb.Inodes != 2 || sb.ModTime != 77 || sb.BlockSize != 8192 || sb.BlockLog != 13 || sb.Compressor != disk.CompressorLZ4 || sb.IDs != 1 {
		t.Errorf("superblock %+v", sb)
	}
	if want := uint16(disk.FlagDuplicates | disk.FlagExport | disk.FlagOptions | disk.FlagNoFragments); sb.Flags != want {
		t.Errorf("flags %#x, want %#x", sb.Flags, want)
	}
	if sb.FragTable != disk.NoTable || sb.XattrTable == disk.NoTable || int64(len(m.b)) != size || int64(sb.BytesUsed) > size {
		t.Errorf("superblock %+v, size %d", sb, size)
	}
}

func TestBuilderCancel(t *testing.T) {
	b, err := squashfs.NewBuilder(nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var m memory
	if _, err := b.WriteTables(ctx, &m, 4096); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if len(m.b) != 0 {
		t.Error("something was written")
	}
}
