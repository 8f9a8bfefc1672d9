package squashfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

// capability is a value of security.capability: cap_net_raw, version 2. It
// begins with a NUL in the middle, which text handling would cut off.
const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// kinds has a file of every kind, and contents that touch every way through a
// writer with the given block size.
func kinds(blockSize int) testtree.Tree {
	bs := blockSize
	long := strings.Repeat("v", 3000)
	return testtree.Tree{
		testtree.Dir(".", 0o755, testtree.Xattr("user.root", "yes")),
		testtree.Dir("bin", 0o755),
		testtree.File("bin/su", 0o4755, "#!/bin/sh\n", testtree.Xattr("security.capability", capability)),
		testtree.Hardlink("bin/sudo", "bin/su"),
		testtree.Hardlink("a-hardlink", "bin/sudo"),
		testtree.File("bin/ping", 0o755, "ping", testtree.Xattr("security.capability", capability), testtree.Owner(1000, 100)),
		testtree.Dir("tmp", 0o1777),
		testtree.Dir("srv", 0o2775, testtree.Owner(70000, 4000000000), testtree.Xattr("user.long", long)),
		testtree.File("srv/xattrs", 0o600, "x", testtree.Xattr("user.long", long), testtree.Xattr("trusted.t", "1"), testtree.Xattr("user.empty", "")),
		testtree.Symlink("link", "bin/su", testtree.Owner(5, 6)),
		testtree.Symlink("longlink", strings.Repeat("t/", 2047)+"t"),
		testtree.Symlink("xlink", "bin", testtree.Xattr("trusted.link", "value")),
		testtree.Char("null", 0o666, 1, 3),
		testtree.Char("whiteout", 0, 0, 0),
		testtree.Block("disk", 0o660, 259, 70000, testtree.Owner(0, 6), testtree.Xattr("trusted.b", "b")),
		testtree.FIFO("fifo", 0o640, testtree.Xattr("trusted.f", "f")),
		testtree.FIFO("fifo2", 0o640),
		testtree.File("old", 0o644, "", testtree.MTime(-5)),
		testtree.File("future", 0o644, "f", testtree.MTime(1<<33)),
		testtree.File("name-of-255-"+strings.Repeat("n", 243), 0o644, "n"),
		testtree.File("empty", 0o444, ""),
		testtree.File("small", 0o644, testtree.Text(1, 3000)),
		testtree.File("again/small", 0o644, testtree.Text(1, 3000)),
		testtree.File("size/block-1", 0o644, testtree.Text(2, bs-1)),
		testtree.File("size/block", 0o644, testtree.Text(3, bs)),
		testtree.File("size/block+1", 0o644, testtree.Text(4, bs+1)),
		testtree.File("size/many", 0o644, testtree.Text(5, 5*bs)),
		testtree.File("size/many+", 0o644, testtree.Text(6, 5*bs+77)),
		testtree.File("size/noise", 0o644, testtree.Bytes(7, 2*bs+9)),
		testtree.File("again/many", 0o644, testtree.Text(5, 5*bs)),
		testtree.File("again/block", 0o644, testtree.Text(3, bs)),
		testtree.File("sparse/all", 0o644, testtree.Zeros(6*bs)),
		testtree.File("sparse/odd", 0o644, testtree.Zeros(6*bs+5)),
		testtree.File("sparse/short", 0o644, testtree.Zeros(bs-1)),
		testtree.File("sparse/head", 0o644, append(testtree.Zeros(2*bs), testtree.Text(8, bs+3)...)),
		testtree.File("sparse/tail", 0o644, append(testtree.Text(9, bs), testtree.Zeros(2*bs)...)),
		testtree.File("sparse/middle", 0o644, append(append(testtree.Text(9, bs), testtree.Zeros(2*bs)...), testtree.Bytes(10, bs)...)),
		testtree.Dir("void", 0o700),
		testtree.File("deep/"+strings.Repeat("d/", 60)+"f", 0o644, "deep"),
	}
}

// entry translates e. The contents are in Data.
func entry(e testtree.Entry) squashfs.Entry {
	return squashfs.Entry{
		Path: e.Path, Mode: e.Mode, UID: uint32(e.UID), GID: uint32(e.GID), ModTime: time.Unix(e.MTime, 0),
		Xattrs: e.Xattrs, Target: e.Target, HardLink: e.HardLink,
		Rdev: squashfs.Rdev{Major: e.Major, Minor: e.Minor}, Size: int64(len(e.Data)),
	}
}

func addTree(tree testtree.Tree) func(context.Context, *squashfs.Writer) error {
	return func(ctx context.Context, w *squashfs.Writer) error {
		for _, e := range tree {
			if err := w.Add(ctx, entry(e), bytes.NewReader(e.Data)); err != nil {
				return err
			}
		}
		return nil
	}
}

func create(t testing.TB, opts *squashfs.WriterOptions, fill func(context.Context, *squashfs.Writer) error) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image.squashfs")
	if err := squashfs.Create(t.Context(), image, opts, fill); err != nil {
		t.Fatal(err)
	}
	return image
}

func writable() []squashfs.Compression {
	return []squashfs.Compression{
		squashfs.CompressionGzip, squashfs.CompressionZstd, squashfs.CompressionLZ4, squashfs.CompressionNone,
	}
}

func TestWriterDeterministic(t *testing.T) {
	tree := kinds(32 << 10)
	for _, c := range writable() {
		var want []byte
		for _, workers := range []int{1, 2, 8} {
			image := create(t, &squashfs.WriterOptions{Compression: c, BlockSize: 32 << 10, Workers: workers}, addTree(tree))
			got, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = got
			}
			if !bytes.Equal(got, want) {
				t.Errorf("comp=%v: image depends on the number of workers", c)
			}
			if len(got)%4096 != 0 {
				t.Errorf("image of %d bytes, not a multiple of 4096", len(got))
			}
		}
	}
}

func TestWriterFromFS(t *testing.T) {
	fsys := fstest.MapFS{
		"a/b": {Data: []byte("b"), Mode: 0o640, ModTime: time.Unix(9, 0)},
		"a/l": {Data: []byte("b"), Mode: fs.ModeSymlink | 0o777},
	}
	image := create(t, nil, func(ctx context.Context, w *squashfs.Writer) error { return w.FromFS(ctx, fsys) })
	out := oracle.Run(t, "unsquashfs", "-lln", "-d", "", image)
	for _, want := range []string{"-rw-r----- 0/0 ", "a/l -> b", "a/b\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestCreateFailure(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := squashfs.Create(ctx, image, nil, func(ctx context.Context, w *squashfs.Writer) error {
		for i := range 100 {
			if i == 50 {
				cancel()
			}
			e := squashfs.Entry{Path: fmt.Sprint(i), Mode: 0o644, Size: 200 << 10}
			if err := w.Add(ctx, e, bytes.NewReader(testtree.Bytes(uint64(i), 200<<10))); err != nil {
				return err
			}
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if got, _ := os.ReadFile(image); string(got) != "old" {
		t.Error("the old file is gone")
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

// FuzzRoundTrip writes the tree that the input describes, with one worker and
// with several, and has unsquashfs or the reader look at it.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("seed"))
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20})
	f.Add(bytes.Repeat([]byte{7, 200, 3, 90}, 200))
	f.Fuzz(func(t *testing.T, script []byte) {
		tree := fuzzTree(script)
		var images [2]memory
		var good testtree.Tree
		for i, workers := range []int{1, 3} {
			w, err := squashfs.NewWriter(&images[i], &squashfs.WriterOptions{BlockSize: 4096, Workers: workers})
			if err != nil {
				t.Fatal(err)
			}
			good = good[:0]
			for _, e := range tree {
				err := w.Add(t.Context(), entry(e), bytes.NewReader(e.Data))
				if bad := new(squashfs.EntryError); errors.As(err, &bad) {
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				good = append(good, e)
			}
			if err := w.Close(); err != nil {
				if bad := new(squashfs.EntryError); errors.As(err, &bad) {
					return
				}
				t.Fatal(err)
			}
			if w.Size()%4096 != 0 || int64(len(images[i].b)) < w.Size() {
				t.Fatalf("size %d of %d bytes", w.Size(), len(images[i].b))
			}
		}
		if !bytes.Equal(images[0].b, images[1].b) {
			t.Fatal("image depends on the number of workers")
		}
		readBack(t, good, images[0].b)
	})
}

// fuzzTree makes a tree of a few bytes for each entry. Some are bad on purpose.
func fuzzTree(script []byte) testtree.Tree {
	var tree testtree.Tree
	next := func() int {
		if len(script) == 0 {
			return 0
		}
		b := script[0]
		script = script[1:]
		return int(b)
	}
	for len(script) > 0 {
		kind, a, b := next(), next(), next()
		p := fmt.Sprintf("%c/%c%d", 'a'+a%5, 'a'+b%7, a%11)
		if a%4 == 0 {
			p = p[2:]
		}
		mode := fs.FileMode(b * 16 & 0o7777)
		switch kind % 8 {
		case 0:
			tree = append(tree, testtree.Dir(p, mode, testtree.MTime(int64(a*b))))
		case 1:
			tree = append(tree, testtree.Symlink(p, strings.Repeat("t", b+1)))
		case 2:
			tree = append(tree, testtree.Hardlink(p, fmt.Sprintf("%c/%c%d", 'a'+b%5, 'a'+a%7, b%11)))
		case 3:
			tree = append(tree, testtree.Char(p, mode, uint32(a), uint32(b)))
		case 4:
			tree = append(tree, testtree.File(p, mode, testtree.Zeros(a*b)))
		case 5:
			tree = append(tree, testtree.File(p, mode, testtree.Bytes(uint64(a), b*64), testtree.Xattr("user.x", strings.Repeat("x", a))))
		default:
			tree = append(tree, testtree.File(p, mode, testtree.Text(uint64(a%9), a*b), testtree.Owner(a, b)))
		}
	}
	return tree
}

func readBack(t testing.TB, want testtree.Tree, image []byte) {
	t.Helper()
	r, err := squashfs.NewReader(bytes.NewReader(image), int64(len(image)), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := testtree.FromFS(r)
	if err != nil {
		t.Fatal(err)
	}
	if d := testtree.Diff(want.Listing(), got, nil); d != "" {
		t.Fatalf("(-want +got)\n%s", d)
	}
}
