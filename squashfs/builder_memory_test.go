package squashfs_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"testing"

	"hpcimg/squashfs"
)

// An image may have millions of entries, and what a Builder keeps of each is
// what decides how much memory it takes to write one.
func TestBuilderMemory(t *testing.T) {
	const entries = 100_000
	b, err := squashfs.NewBuilder(nil)
	if err != nil {
		t.Fatal(err)
	}
	pack, err := b.AddPack(&squashfs.Pack{
		Size: 4096, BlockSize: squashfs.DefaultBlockSize, Fragments: []squashfs.FragmentBlock{{Word: 100}},
	}, 4096)
	if err != nil {
		t.Fatal(err)
	}
	before := heapInUse()
	for i := range entries {
		e := squashfs.Entry{
			Path: fmt.Sprintf("usr/lib/python3/package-%d/module_%d.py", i/50, i), Mode: 0o644, UID: uint32(i % 3),
			Content: &squashfs.Content{Size: 1000, FragmentOffset: uint32(i % 60000)}, Pack: pack,
		}
		if err := b.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	each := float64(heapInUse()-before) / entries
	t.Logf("%.0f bytes for each entry", each)
	if each > 100 {
		t.Errorf("%.0f bytes for each entry, want 100 at most", each)
	}
	runtime.KeepAlive(b)
}

func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Names, link targets and block lists of any length are kept as they are.
func TestBuilderLengths(t *testing.T) {
	b, err := squashfs.NewBuilder(nil)
	if err != nil {
		t.Fatal(err)
	}
	blocks := make([]uint32, 200_000) // of zeros
	pack, err := b.AddPack(&squashfs.Pack{Size: 4096, BlockSize: squashfs.DefaultBlockSize}, 4096)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]string)
	for n := 1; n <= 255; n++ {
		name := strings.Repeat("n", n)
		want[name] = strings.Repeat("t", n*16)
		if err := b.Add(squashfs.Entry{Path: name, Mode: fs.ModeSymlink | 0o777, Target: want[name]}); err != nil {
			t.Fatal(err)
		}
	}
	deep := strings.Repeat(strings.Repeat("d", 255)+"/", 40) + "file"
	size := int64(len(blocks)) * squashfs.DefaultBlockSize
	for _, e := range []squashfs.Entry{
		{Path: "link", HardLink: deep}, // longer than a piece of the arena
		{Path: deep, Mode: 0o644, Content: &squashfs.Content{Size: size, Blocks: blocks, Fragment: -1}, Pack: pack},
	} {
		if err := b.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	var m memory
	if _, err := b.WriteTables(t.Context(), &m, 8192); err != nil {
		t.Fatal(err)
	}
	r, err := squashfs.NewReader(bytes.NewReader(m.b), int64(len(m.b)), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, target := range want {
		if got, err := r.ReadLink(name); err != nil || got != target {
			t.Errorf("ReadLink of a name of %d bytes: %d bytes, %v", len(name), len(got), err)
		}
	}
	for _, name := range []string{"link", deep} {
		info, err := r.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if fi := info.(*squashfs.FileInfo); fi.Size() != size || fi.LinkCount() != 2 {
			t.Errorf("%d bytes, %d links", fi.Size(), fi.LinkCount())
		}
	}
	if report, err := squashfs.Check(t.Context(), bytes.NewReader(m.b), int64(len(m.b)), nil); err != nil || !report.OK() {
		t.Errorf("Check: %v, %v", report, err)
	}
}
