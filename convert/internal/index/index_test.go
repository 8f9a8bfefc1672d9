package index_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hpcimg/convert/internal/index"
	"hpcimg/convert/internal/layer"
	"hpcimg/squashfs"
)

func sampleLayer() *index.Layer {
	return &index.Layer{
		Entries: layer.ListOf(
			layer.Entry{Path: ".", Kind: layer.Dir, Mode: 0o755, ModTime: 1_700_000_000},
			layer.Entry{Path: "usr", Kind: layer.Opaque},
			layer.Entry{Path: "usr/bin/su", Kind: layer.File, Mode: 0o755 | fs.ModeSetuid | fs.ModeSetgid, Size: 1 << 40, ModTime: 5, UID: 1 << 31, GID: 7},
			layer.Entry{Path: "usr/bin/sudo", Kind: layer.HardLink, Link: "usr/bin/su"},
			layer.Entry{Path: "usr/bin/s", Kind: layer.Symlink, Mode: 0o777, Link: "../../etc"},
			layer.Entry{Path: "usr/lib", Kind: layer.Whiteout},
			layer.Entry{Path: "tmp", Kind: layer.Dir, Mode: 0o777 | fs.ModeSticky, ModTime: 1<<32 - 1},
			layer.Entry{Path: "dev/null", Kind: layer.Char, Mode: 0o666, Major: 1, Minor: 3},
			layer.Entry{Path: "dev/sda", Kind: layer.Block, Mode: 0o660, Major: 8},
			layer.Entry{Path: "fifo", Kind: layer.FIFO, Mode: 0o600, Xattrs: map[string]string{"trusted.a": "\x00b"}},
			layer.Entry{Path: strings.Repeat("d/", 500) + "f", Kind: layer.File, Xattrs: map[string]string{"user.a": "b", "security.capability": "\x00\x01"}},
		),
		Elves:   map[int32]string{2: "amd64", 10: "riscv64"},
		Notes:   []index.Note{{Code: layer.NoteXattr, Path: "x", Detail: "security.selinux", Count: 17}},
		TarSize: 1 << 41,
	}
}

func sampleSegment() *index.Segment {
	return &index.Segment{
		Contents: index.ContentsOf(
			nil,
			&squashfs.Content{Fragment: -1},
			&squashfs.Content{Size: 100, Fragment: 0, FragmentOffset: 17},
			&squashfs.Content{Size: 300_000, Fragment: -1, Start: 5000, Blocks: []uint32{1000, 0, 1<<24 | 37_856}},
			&squashfs.Content{Size: 300_000, Fragment: -1, Start: 5000, Blocks: []uint32{1000, 0, 1<<24 | 37_856}},
			nil,
			&squashfs.Content{Size: 1 << 17, Fragment: -1, Start: 100, Blocks: []uint32{4900}},
		),
		Pack: &squashfs.Pack{
			Size: 1 << 20, Compression: squashfs.CompressionZstd, BlockSize: 1 << 17,
			Fragments: []squashfs.FragmentBlock{{Start: 0, Word: 100}},
			Units:     []squashfs.Unit{{Digest: [32]byte{1}, Word: 100}, {Digest: [32]byte{2}, Start: 100, Word: 4900}, {Start: 5000, Word: 1000}},
		},
	}
}

func entriesOf(l *index.Layer) (all []layer.Entry) {
	for _, e := range l.Entries.All() {
		all = append(all, *e)
	}
	return all
}

func TestLayer(t *testing.T) {
	want := sampleLayer()
	b, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := index.DecodeLayer(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(entriesOf(want), entriesOf(got)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(want.Elves, got.Elves) + cmp.Diff(want.Notes, got.Notes) + cmp.Diff(want.TarSize, got.TarSize); d != "" {
		t.Error(d)
	}
}

// asSlice lets contents be compared.
var asSlice = cmp.Transformer("All", func(x *index.Contents) (all []*squashfs.Content) {
	for _, c := range x.All() {
		all = append(all, c)
	}
	return all
})

func TestSegment(t *testing.T) {
	want := sampleSegment()
	b, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := index.DecodeSegment(b, want.Contents.Len())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, asSlice); d != "" {
		t.Error(d)
	}
	if _, err := index.DecodeSegment(b, want.Contents.Len()+1); !errors.Is(err, index.ErrFormat) {
		t.Errorf("another number of entries: %v", err)
	}
}

// TestHostile has entries that no tar could have given.
func TestHostile(t *testing.T) {
	for name, e := range map[string]layer.Entry{
		"climbs":           {Path: "../etc/passwd", Kind: layer.File},
		"absolute":         {Path: "/etc", Kind: layer.Dir},
		"empty":            {Path: "", Kind: layer.File},
		"double slash":     {Path: "a//b", Kind: layer.File},
		"NUL":              {Path: "a\x00b", Kind: layer.File},
		"long name":        {Path: strings.Repeat("x", 256), Kind: layer.File},
		"root is a file":   {Path: ".", Kind: layer.File},
		"unknown kind":     {Path: "a", Kind: 77},
		"link climbs":      {Path: "a", Kind: layer.HardLink, Link: "../b"},
		"long link":        {Path: "a", Kind: layer.Symlink, Link: strings.Repeat("y", 4096)},
		"size of no file":  {Path: "a", Kind: layer.File, Size: -1},
		"device":           {Path: "a", Kind: layer.Char, Major: 1 << 20},
		"foreign xattr":    {Path: "a", Kind: layer.File, Xattrs: map[string]string{"system.posix_acl_access": "x"}},
		"too large xattrs": {Path: "a", Kind: layer.File, Xattrs: map[string]string{"user.a": strings.Repeat("x", 1<<17)}},
	} {
		b, err := (&index.Layer{Entries: layer.ListOf(e)}).Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := index.DecodeLayer(b); !errors.Is(err, index.ErrFormat) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestKeys(t *testing.T) {
	base := index.Params{Compression: squashfs.CompressionGzip, BlockSize: 1 << 17, Fingerprint: "f"}
	seen := map[string]bool{index.LayerKey("sha256:a"): true, index.LayerKey("sha256:b"): true}
	for _, change := range []func(*index.Params){
		func(*index.Params) {},
		func(p *index.Params) { p.Compression = squashfs.CompressionZstd },
		func(p *index.Params) { p.BlockSize = 4096 },
		func(p *index.Params) { p.Fingerprint = "g" },
	} {
		p := base
		change(&p)
		k := index.PackKey("sha256:a", p)
		seen[k] = true
		seen[index.SegmentKey(k, []bool{true, false})] = true
		seen[index.SegmentKey(k, []bool{false, true})] = true
	}
	if len(seen) != 2+4*3 {
		t.Errorf("%d different keys", len(seen))
	}
	if a, b := index.PackKey("a", base), index.SegmentKey(index.PackKey("a", base), nil); !strings.HasPrefix(b, a) {
		t.Errorf("%s does not begin with %s", b, a)
	}
}

// FuzzLayer decodes: what is accepted has to be encoded to something that means the same.
func FuzzLayer(f *testing.F) {
	b, err := sampleLayer().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)-5])
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := index.DecodeLayer(b)
		if err != nil {
			if !errors.Is(err, index.ErrFormat) {
				t.Fatalf("error %v", err)
			}
			return
		}
		again, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		l2, err := index.DecodeLayer(again)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(entriesOf(l), entriesOf(l2)); d != "" {
			t.Error(d)
		}
	})
}

// FuzzSegment decodes, and builds an image from what is accepted: the builder may refuse it but must not panic.
func FuzzSegment(f *testing.F) {
	b, err := sampleSegment().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, 7)
	f.Fuzz(func(t *testing.T, b []byte, entries int) {
		s, err := index.DecodeSegment(b, min(max(entries, 0), 1000))
		if err != nil {
			if !errors.Is(err, index.ErrFormat) {
				t.Fatalf("error %v", err)
			}
			return
		}
		builder, err := squashfs.NewBuilder(&squashfs.BuilderOptions{Compression: s.Pack.Compression, BlockSize: s.Pack.BlockSize})
		if err != nil {
			return
		}
		id, err := builder.AddPack(s.Pack, 4096)
		if err != nil {
			return
		}
		for i, c := range s.Contents.All() {
			_ = builder.Add(squashfs.Entry{Path: "f" + strings.Repeat("x", i%200), Content: c, Pack: id})
		}
		again, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if s2, err := index.DecodeSegment(again, s.Contents.Len()); err != nil || cmp.Diff(s, s2, asSlice) != "" {
			t.Errorf("decoded again: %v %s", err, cmp.Diff(s, s2))
		}
	})
}

// TestBomb has a header that promises more than it has.
func TestBomb(t *testing.T) {
	b, err := (&index.Layer{Entries: layer.ListOf()}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Replace(b, []byte("-1\n"), []byte("-1\n\xff\xff\xff\xff\x7f"), 1)
	if _, err := index.DecodeLayer(b); !errors.Is(err, index.ErrFormat) {
		t.Errorf("error %v", err)
	}
}

// What is set is what is there, in whatever order and however large.
func TestContents(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	want := make([]*squashfs.Content, 4000)
	x := new(index.Contents)
	x.Grow(len(want))
	for _, i := range r.Perm(len(want)) {
		switch r.IntN(4) {
		case 0:
			continue
		case 1:
			want[i] = &squashfs.Content{Fragment: r.Int32N(1 << 30), FragmentOffset: r.Uint32(), Size: r.Int64()}
		default:
			want[i] = &squashfs.Content{Fragment: -1, Start: r.Int64(), Size: r.Int64(), Blocks: make([]uint32, 1+r.IntN(60))}
			if r.IntN(100) == 0 {
				want[i].Blocks = make([]uint32, 100_000)
			}
			for j := range want[i].Blocks {
				want[i].Blocks[j] = r.Uint32()
			}
		}
		x.Set(i, want[i])
	}
	if x.Err() != nil {
		t.Fatal(x.Err())
	}
	for i, c := range x.All() {
		if x.Has(i) != (want[i] != nil) {
			t.Errorf("%d: has %v", i, x.Has(i))
		}
		if d := cmp.Diff(want[i], c); d != "" {
			t.Fatalf("%d: %s", i, d)
		}
	}
}
