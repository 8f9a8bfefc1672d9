package squashfs_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

func lookup(t *testing.T, in *squashfs.Inode, names ...string) *squashfs.Inode {
	t.Helper()
	for _, name := range names {
		child, err := in.Lookup(name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		in = child
	}
	return in
}

// What a FUSE server does: lookups, listings in pieces, reads by inode.
func TestInodes(t *testing.T) {
	dir := sourceDir(t)
	for _, args := range []string{"-comp", "-no-exports"} {
		list := []string{args}
		if args == "-comp" {
			list = append(list, "lz4")
		}
		r := openImage(t, mksquashfs(t, dir, list...), nil)
		root := r.Root()
		if !root.IsDir() || root.Size() == 0 || root.LinkCount() < 4 {
			t.Errorf("root is %v", root.Mode())
		}
		many := lookup(t, root, "many")
		for _, i := range []int{0, 1, 299, 300, 599} {
			in := lookup(t, many, manyName(i))
			if got, err := io.ReadAll(io.NewSectionReader(in, 0, in.Size())); err != nil || !bytes.Equal(got, testtree.Text(uint64(i), i%40)) {
				t.Errorf("%s: %q, %v", manyName(i), got, err)
			}
			again, err := r.InodeByNumber(in.Number())
			if err != nil || again.Ref() != in.Ref() {
				t.Errorf("InodeByNumber(%d) = %v, %v", in.Number(), again, err)
			}
		}
		for _, name := range []string{"", ".", "..", "nope", "a", "z", string(make([]byte, 300))} {
			if _, err := many.Lookup(name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Lookup(%q) = %v", name, err)
			}
		}
		if _, err := r.InodeByNumber(uint32(r.Inodes()) + 1); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("InodeByNumber above all = %v", err)
		}
		if _, err := lookup(t, root, "etc", "passwd").Lookup("x"); err == nil {
			t.Error("Lookup in a file")
		}
	}
}

// A listing can be left after any entry and taken up again.
func TestReadDirResumes(t *testing.T) {
	r := openImage(t, mksquashfs(t, sourceDir(t)), nil)
	many := lookup(t, r.Root(), "many")
	var all []squashfs.Dirent
	for e, err := range many.ReadDir(0) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	if len(all) != 600 {
		t.Fatalf("%d entries", len(all))
	}
	for i, e := range all {
		var next string
		for e, err := range many.ReadDir(e.Next) {
			if err != nil {
				t.Fatal(err)
			}
			next = e.Name
			break
		}
		want := ""
		if i+1 < len(all) {
			want = all[i+1].Name
		}
		if next != want {
			t.Fatalf("behind %s (%#x) comes %q, not %q", e.Name, e.Next, next, want)
		}
	}
	for _, err := range many.ReadDir(^uint64(0)) {
		t.Errorf("behind the end: %v", err)
	}
}

// Blocks and Fragment say where the bytes of a file are.
func TestBlockAccess(t *testing.T) {
	file := mksquashfs(t, sourceDir(t), "-noD", "-noF", "-always-use-fragments")
	img, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r := openImage(t, file, nil)
	usr := lookup(t, r.Root(), "usr")
	for _, in := range []*squashfs.Inode{lookup(t, usr, "bin", "tail"), lookup(t, usr, "sparse"), lookup(t, usr, "zerotail")} {
		var got []byte
		for b, err := range in.Blocks() {
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case b.Hole():
				got = append(got, make([]byte, b.Size)...)
			case !b.Raw || b.StoredSize != b.Size:
				t.Errorf("block %+v is not raw", b)
			default:
				got = append(got, img[b.Offset:b.Offset+int64(b.StoredSize)]...)
			}
		}
		f, ok, err := in.Fragment()
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			start := f.Block.Offset + int64(f.Offset)
			got = append(got, img[start:start+int64(f.Size)]...)
		}
		want := make([]byte, in.Size())
		if _, err := in.ReadAt(want, 0); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes from blocks differ from the %d of the file", len(got), len(want))
		}
	}
}

// Many goroutines read the same image through a cache that is far too small.
func TestReadAtConcurrently(t *testing.T) {
	want := testtree.Text(13, 3<<20+77)
	r := openImage(t, mksquashfs(t, sourceDir(t), "-comp", "zstd", "-b", "16384"), &squashfs.ReaderOptions{CacheSize: 200_000})
	in := lookup(t, r.Root(), "usr", "bin", "big")
	small := lookup(t, r.Root(), "usr", "bin", "small")
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 0))
			buf := make([]byte, 50000)
			for range 200 {
				off := rng.IntN(len(want))
				p := buf[:rng.IntN(len(buf))]
				n, err := in.ReadAt(p, int64(off))
				if n < len(p) && !errors.Is(err, io.EOF) || !bytes.Equal(p[:n], want[off:off+n]) || n != min(len(p), len(want)-off) {
					t.Errorf("ReadAt(%d, %d) = %d, %v", len(p), off, n, err)
				}
				if n, err := small.ReadAt(p[:min(100, len(p))], 5); err != nil || n != min(100, len(p)) {
					t.Errorf("small: %d, %v", n, err)
				}
			}
		})
	}
	wg.Wait()
}

// A file of far more blocks than marks are set for.
func TestLongBlockLists(t *testing.T) {
	tree := testtree.Tree{testtree.File("f", 0o644, testtree.Text(7, 5000*4096+9))}
	r := openImage(t, tar2sqfs(t, tree, "-b", "4096", "-c", "lz4"), nil)
	in := lookup(t, r.Root(), "f")
	want := tree[0].Data
	rng := rand.New(rand.NewPCG(1, 2))
	p := make([]byte, 3*4096)
	for range 300 {
		off := rng.IntN(len(want))
		n, err := in.ReadAt(p, int64(off))
		if err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(p[:n], want[off:off+n]) {
			t.Fatalf("ReadAt(%d) = %d, %v", off, n, err)
		}
	}
	data, err := r.ReadFile("f")
	if err != nil || !bytes.Equal(data, want) {
		t.Errorf("ReadFile: %d bytes, %v", len(data), err)
	}
}

type failingReaderAt struct {
	io.ReaderAt
	from int64
}

var errDisk = errors.New("input/output error")

func (f failingReaderAt) ReadAt(p []byte, off int64) (int, error) {
	if off >= f.from && off < 100_000 {
		return 0, errDisk
	}
	return f.ReaderAt.ReadAt(p, off)
}

// An error of the source is neither hidden nor taken for damage.
func TestSourceErrors(t *testing.T) {
	img, err := os.ReadFile(tar2sqfs(t, testtree.Tree{testtree.File("f", 0o644, testtree.Bytes(1, 500_000))}))
	if err != nil {
		t.Fatal(err)
	}
	r, err := squashfs.NewReader(failingReaderAt{bytes.NewReader(img), 96}, int64(len(img)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadFile("f"); !errors.Is(err, errDisk) || errors.Is(err, squashfs.ErrFormat) {
		t.Errorf("ReadFile = %v", err)
	}
	if _, err := squashfs.Check(t.Context(), failingReaderAt{bytes.NewReader(img), 96}, int64(len(img)), nil); !errors.Is(err, errDisk) {
		t.Errorf("Check = %v", err)
	}
}
