package squashfs_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"testing/iotest"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

func openImage(t testing.TB, path string, opts *squashfs.ReaderOptions) *squashfs.Reader {
	t.Helper()
	r, err := squashfs.Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestReaderMatchesSource(t *testing.T) {
	dir := sourceDir(t)
	want, err := testtree.Walk(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		args string
		diff testtree.DiffOptions
	}{
		{name: "gzip", args: "-comp gzip"},
		{name: "zstd", args: "-comp zstd"},
		{name: "lz4", args: "-comp lz4"},
		{name: "lz4-hc", args: "-comp lz4 -Xhc"},
		{name: "xz", args: "-comp xz"},
		{name: "none", args: "-noI -noD -noF -noX"},
		{name: "raw-data", args: "-noD"},
		{name: "raw-inodes", args: "-noI -noId"},
		{name: "raw-fragments", args: "-noF"},
		{name: "no-fragments", args: "-no-fragments"},
		{name: "tail-fragments", args: "-always-use-fragments"},
		{name: "no-duplicates", args: "-no-duplicates"},
		{name: "not-sparse", args: "-no-sparse"},
		{name: "unpadded", args: "-nopad"},
		{name: "no-exports", args: "-no-exports"},
		{name: "4K", args: "-b 4096"},
		{name: "1M", args: "-b 1M -comp zstd -always-use-fragments"},
		{name: "no-xattrs", args: "-no-xattrs", diff: testtree.DiffOptions{IgnoreXattrs: []string{""}}},
		{name: "all-root", args: "-all-root", diff: testtree.DiffOptions{IgnoreOwner: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			image := mksquashfs(t, dir, strings.Fields(tc.args)...)
			got, err := testtree.FromFS(openImage(t, image, nil))
			if err != nil {
				t.Fatal(err)
			}
			if diff := testtree.Diff(want, got, &tc.diff); diff != "" {
				t.Errorf("(-source +image)\n%s", diff)
			}
		})
	}
}

func TestReaderMatchesTar(t *testing.T) {
	tree := readerTree(true)
	for _, comp := range []string{"gzip", "zstd", "xz", "lz4"} {
		t.Run(comp, func(t *testing.T) {
			got, err := testtree.FromFS(openImage(t, tar2sqfs(t, tree, "-c", comp), nil))
			if err != nil {
				t.Fatal(err)
			}
			if diff := testtree.Diff(tree.Listing(), got, nil); diff != "" {
				t.Errorf("(-tar +image)\n%s", diff)
			}
		})
	}
}

func TestReaderFS(t *testing.T) {
	tree := slices.DeleteFunc(readerTreeOf(true, 20), func(e testtree.Entry) bool { return len(e.Data) > 300000 })
	r := openImage(t, tar2sqfs(t, tree, "-b", "16384"), nil)
	if err := fstest.TestFS(r, "usr/bin/block", "etc/empty", "many/"+manyName(19)); err != nil {
		t.Error(err)
	}
}

func TestReaderSymlinks(t *testing.T) {
	tree := testtree.Tree{
		testtree.Dir("a/b", 0o755),
		testtree.File("a/b/file", 0o644, "contents"),
		testtree.Symlink("abs", "/a/b/file"),
		testtree.Symlink("a/up", "../../../a/b/file"),
		testtree.Symlink("dir", "a//./b/"),
		testtree.Symlink("chain", "chain1"),
		testtree.Symlink("chain1", "dir/file"),
		testtree.Symlink("loop", "loop"),
		testtree.Symlink("dangling", "nowhere/file"),
		testtree.Symlink("through", "abs/file"),
	}
	r := openImage(t, tar2sqfs(t, tree), nil)
	for _, name := range []string{"abs", "a/up", "dir/file", "chain", "dir/../chain", "a/b/file"} {
		if !fs.ValidPath(name) {
			continue
		}
		if data, err := r.ReadFile(name); err != nil || string(data) != "contents" {
			t.Errorf("ReadFile(%s) = %q, %v", name, data, err)
		}
		if fi, err := r.Stat(name); err != nil || !fi.Mode().IsRegular() || fi.Name() != filepath.Base(name) {
			t.Errorf("Stat(%s) = %v, %v", name, fi, err)
		}
	}
	if _, err := r.Open("loop"); !errors.Is(err, squashfs.ErrLimit) {
		t.Errorf("Open(loop) = %v, want a limit error", err)
	}
	if _, err := r.Open("dangling"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open(dangling) = %v", err)
	}
	if _, err := r.Open("through"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open(through) = %v, want not a directory", err)
	}
	if target, err := r.ReadLink("loop"); err != nil || target != "loop" {
		t.Errorf("ReadLink(loop) = %q, %v", target, err)
	}
	if _, err := r.ReadLink("a"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("ReadLink(a) = %v", err)
	}
	if fi, err := r.Lstat("abs"); err != nil || fi.Mode().Type() != fs.ModeSymlink {
		t.Errorf("Lstat(abs) = %v, %v", fi, err)
	}
}

func TestReaderFileInterfaces(t *testing.T) {
	want := testtree.Text(13, 3<<20+77)
	// TestReader reads a byte or two at a time. With the race detector, 3 MiB of that take half a minute, and three blocks and a
	// fragment say as much.
	bytewise, contents := "usr/bin/big", want
	if oracle.Race {
		bytewise, contents = "usr/bin/tail", testtree.Text(5, 400000)
	}
	image := mksquashfs(t, sourceDir(t), "-comp", "zstd", "-always-use-fragments")
	for _, workers := range []int{1, 4} {
		r := openImage(t, image, &squashfs.ReaderOptions{Workers: workers})
		small, err := r.Open(bytewise)
		if err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(small, contents); err != nil {
			t.Error(err)
		}
		if err := small.Close(); err != nil {
			t.Error(err)
		}
		f, err := r.Open("usr/bin/big")
		if err != nil {
			t.Fatal(err)
		}
		for _, off := range []int64{0, 1, 131072, 131073, 3 << 20, 3<<20 + 77} {
			if _, err := f.(io.Seeker).Seek(off, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			var buf bytes.Buffer
			n, err := io.Copy(&buf, f)
			if err != nil || n != int64(len(want))-off || !bytes.Equal(buf.Bytes(), want[off:]) {
				t.Errorf("copy from %d: %d bytes, %v", off, n, err)
			}
		}
		if _, err := f.(io.Seeker).Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		full := &failingWriter{after: 1 << 20}
		if n, err := f.(io.WriterTo).WriteTo(full); !errors.Is(err, errFull) || n != 1<<20 {
			t.Errorf("WriteTo a full disk = %d, %v", n, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if _, err := f.Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("Read after Close = %v", err)
		}
	}
}

var errFull = errors.New("disk full")

type failingWriter struct{ after int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if len(p) > w.after {
		n := w.after
		w.after = 0
		return n, errFull
	}
	w.after -= len(p)
	return len(p), nil
}

func TestReaderErrors(t *testing.T) {
	image, err := os.ReadFile(mksquashfs(t, sourceDir(t)))
	if err != nil {
		t.Fatal(err)
	}
	open := func(b []byte) error {
		_, err := squashfs.NewReader(bytes.NewReader(b), int64(len(b)), nil)
		return err
	}
	var fe *squashfs.FormatError
	if err := open([]byte("not an image")); !errors.As(err, &fe) || fe.Structure != "superblock" || !errors.Is(err, squashfs.ErrFormat) {
		t.Errorf("short = %v", err)
	}
	if err := open(make([]byte, 8192)); !errors.Is(err, squashfs.ErrFormat) {
		t.Errorf("zeros = %v", err)
	}
	if err := open(image[:len(image)/2]); !errors.Is(err, squashfs.ErrFormat) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("truncated = %v", err)
	}
	for _, id := range []byte{2, 3, 77} {
		b := bytes.Clone(image)
		b[20] = id
		if err := open(b); !errors.Is(err, errors.ErrUnsupported) || errors.Is(err, squashfs.ErrFormat) {
			t.Errorf("compressor %d = %v", id, err)
		}
	}
	r, err := squashfs.NewReader(bytes.NewReader(image), int64(len(image)), &squashfs.ReaderOptions{MaxReadFile: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var le *squashfs.LimitError
	if _, err := r.ReadFile("usr/bin/small"); !errors.As(err, &le) || le.Limit != 1000 || !errors.Is(err, squashfs.ErrLimit) {
		t.Errorf("ReadFile over the limit = %v", err)
	}
	if _, err := r.Open("no/such"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open(no/such) = %v", err)
	}
	if _, err := r.Open("../etc"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Open(../etc) = %v", err)
	}
}
