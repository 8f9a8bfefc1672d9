package squashfs_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

func TestWriterKernelMount(t *testing.T) {
	oracle.Root(t)
	sizes := []int{4 << 10, 128 << 10, 1 << 20}
	if testing.Short() {
		sizes = sizes[:2]
	}
	for _, c := range writable() {
		for _, bs := range sizes {
			t.Run(fmt.Sprintf("comp=%v/block=%d", c, bs), func(t *testing.T) {
				tree := kinds(bs)
				image := create(t, &squashfs.WriterOptions{Compression: c, BlockSize: bs}, addTree(tree))
				diffDir(t, clamped(tree.Listing()), oracle.KernelMount(t, image), nil)
			})
		}
	}
}

func TestWriterLevels(t *testing.T) {
	oracle.Root(t)
	tree := kinds(16 << 10)
	for _, o := range []squashfs.WriterOptions{
		{Compression: squashfs.CompressionGzip, Level: 1},
		{Compression: squashfs.CompressionGzip, Level: 9},
		{Compression: squashfs.CompressionZstd, Level: 1},
		{Compression: squashfs.CompressionZstd, Level: 2},
		{Compression: squashfs.CompressionZstd, Level: 7},
		{Compression: squashfs.CompressionZstd, Level: 19},
		{Compression: squashfs.CompressionLZ4, Level: 9},
		{NoFragments: true, NoDuplicates: true, NoExport: true, Workers: 1},
	} {
		t.Run(fmt.Sprintf("comp=%v/level=%d", o.Compression, o.Level), func(t *testing.T) {
			o.BlockSize = 16 << 10
			image := create(t, &o, addTree(tree))
			diffDir(t, clamped(tree.Listing()), oracle.KernelMount(t, image), nil)
		})
	}
}

// unsquashfs has its own idea of what is valid, and rejects counts and indexes
// that kernels do not look at.
func TestWriterUnsquashfs(t *testing.T) {
	oracle.Root(t) // for ownership and devices
	for _, c := range writable() {
		t.Run(c.String(), func(t *testing.T) {
			tree := kinds(64 << 10)
			image := create(t, &squashfs.WriterOptions{Compression: c, BlockSize: 64 << 10}, addTree(tree))
			dir := filepath.Join(t.TempDir(), "out")
			oracle.Run(t, "unsquashfs", "-no-progress", "-quiet", "-strict-errors", "-dest", dir, image)
			// It takes times for signed.
			diffDir(t, clamped(tree.Listing()), dir, &testtree.DiffOptions{
				Ignore: func(p string) bool { return p == "future" },
			})
		})
	}
}

func TestWriterRdsquashfs(t *testing.T) {
	tree := kinds(64 << 10)
	image := create(t, &squashfs.WriterOptions{BlockSize: 64 << 10}, addTree(tree))
	dir := t.TempDir()
	oracle.Run(t, "rdsquashfs", "--quiet", "--no-dev", "--no-fifo", "--unpack-path", "/", "--unpack-root", dir, image)
	for _, e := range tree {
		if !e.Mode.IsRegular() || e.HardLink != "" {
			continue
		}
		got, err := os.ReadFile(filepath.Join(dir, e.Path))
		if err != nil || !bytes.Equal(got, e.Data) {
			t.Errorf("%s differs (%v)", e.Path, err)
		}
	}
}

func TestWriterSquashfuse(t *testing.T) {
	oracle.Root(t)
	oracle.FUSE(t)
	squashfuse := oracle.Tool(t, "squashfuse")
	for _, c := range []squashfs.Compression{squashfs.CompressionGzip, squashfs.CompressionZstd, squashfs.CompressionLZ4} {
		t.Run(c.String(), func(t *testing.T) {
			tree := kinds(64 << 10)
			for _, e := range tree {
				delete(e.Xattrs, "user.empty") // listed, but cannot be read
			}
			image := create(t, &squashfs.WriterOptions{Compression: c, BlockSize: 64 << 10}, addTree(tree))
			dir := t.TempDir()
			if out, err := exec.Command(squashfuse, image, dir).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			t.Cleanup(func() { _ = syscall.Unmount(dir, 0) })
			// Old releases swap two xattr namespaces, take times for
			// signed and make up inode numbers.
			want := clamped(tree.Listing())
			for p, n := range want {
				n.Group = ""
				want[p] = n
			}
			diffDir(t, want, dir, &testtree.DiffOptions{
				IgnoreXattrs: []string{""}, Ignore: func(p string) bool { return p == "future" },
			})
		})
	}
}

// All ways of putting the same tree in lead to the same image.
func TestWriterSources(t *testing.T) {
	oracle.Root(t)
	tree := kinds(128 << 10)
	direct := create(t, nil, addTree(tree))

	archive := tree.Tar(nil)
	fromTar := create(t, nil, func(ctx context.Context, w *squashfs.Writer) error {
		return w.FromTar(ctx, bytes.NewReader(archive), nil)
	})
	mounted := oracle.KernelMount(t, direct)
	diffDir(t, mustWalk(t, mounted), oracle.KernelMount(t, fromTar), nil)

	fromDir := create(t, nil, func(ctx context.Context, w *squashfs.Writer) error {
		return w.FromDir(ctx, mounted, nil)
	})
	diffDir(t, mustWalk(t, mounted), oracle.KernelMount(t, fromDir), nil)

	fromFS := create(t, nil, func(ctx context.Context, w *squashfs.Writer) error {
		return w.FromFS(ctx, os.DirFS(filepath.Join(mounted, "size")))
	})
	diffDir(t, mustWalk(t, filepath.Join(mounted, "size")), oracle.KernelMount(t, fromFS), nil)
}

func TestWriterFromDirSkip(t *testing.T) {
	oracle.Root(t)
	dir := filepath.Join(t.TempDir(), "src")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	testtree.Tree{
		testtree.File("f", 0o644, "f", testtree.Xattr("trusted.keep", "1"), testtree.Xattr("trusted.overlay.opaque", "y")),
	}.Dir(t, dir)
	image := create(t, nil, func(ctx context.Context, w *squashfs.Writer) error {
		return w.FromDir(ctx, dir, &squashfs.FromDirOptions{Skip: func(path, name string) bool {
			return strings.HasPrefix(name, "trusted.overlay.")
		}})
	})
	got := mustWalk(t, oracle.KernelMount(t, image))["f"].Xattrs
	if want := testtree.FormatXattrs(map[string]string{"trusted.keep": "1"}); got != want {
		t.Errorf("xattrs are %s, want %s", got, want)
	}
}

func TestWriterLargeDirectory(t *testing.T) {
	oracle.Root(t)
	const n = 12000
	var tree testtree.Tree
	for i := range n {
		tree = append(tree, testtree.File(fmt.Sprintf("d/file-%06d-%x", i*7919%n, i*i), 0o644, ""))
		if i%100 == 0 {
			tree = append(tree, testtree.Dir(fmt.Sprintf("d/file-%06d-dir", i), 0o755))
			tree = append(tree, testtree.Hardlink(fmt.Sprintf("e/%d", i), tree[i].Path))
		}
	}
	image := create(t, nil, addTree(tree))
	// Walk looks every name up, and so goes through the directory index.
	diffDir(t, tree.Listing(), oracle.KernelMount(t, image), nil)
}

func TestWriterEmpty(t *testing.T) {
	oracle.Root(t)
	image := create(t, nil, func(context.Context, *squashfs.Writer) error { return nil })
	got := mustWalk(t, oracle.KernelMount(t, image))
	if root := got["."]; len(got) != 1 || root.Mode != fs.ModeDir|0o755 || root.ModTime != 0 {
		t.Errorf("got %v", got)
	}
}

func TestWriterAllRootAndImplicit(t *testing.T) {
	oracle.Root(t)
	tree := testtree.Tree{testtree.File("a/b/c", 0o600, "c", testtree.Owner(5, 6))}
	at := time.Unix(1234567, 0)
	image := create(t, &squashfs.WriterOptions{AllRoot: true, ModTime: at}, addTree(tree))
	got := mustWalk(t, oracle.KernelMount(t, image))
	if n := got["a/b"]; n.Mode != fs.ModeDir|0o755 || n.ModTime != at.Unix() {
		t.Errorf("implicit directory: %+v", n)
	}
	if n := got["a/b/c"]; n.UID != 0 || n.GID != 0 || n.Mode != 0o600 {
		t.Errorf("file: %+v", n)
	}
}

func diffDir(t testing.TB, want testtree.Listing, dir string, o *testtree.DiffOptions) {
	t.Helper()
	got, err := testtree.Walk(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := testtree.Diff(want, got, o); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func mustWalk(t testing.TB, dir string) testtree.Listing {
	t.Helper()
	l, err := testtree.Walk(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// clamped is what an image has of a listing's times.
func clamped(l testtree.Listing) testtree.Listing {
	for p, n := range l {
		n.ModTime = min(max(n.ModTime, 0), 1<<32-1)
		l[p] = n
	}
	return l
}

// Two packs, one of them beyond 4 GiB of a sparse file, make one image.
func TestBuilderPacks(t *testing.T) {
	oracle.Root(t)
	const far = 5 << 30
	image := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := squashfs.NewBuilder(nil)
	if err != nil {
		t.Fatal(err)
	}
	tree := testtree.Tree{
		testtree.Dir(".", 0o755),
		testtree.File("0/small", 0o644, testtree.Text(1, 100)),
		testtree.File("0/large", 0o644, testtree.Text(2, 300<<10)),
		testtree.File("1/small", 0o644, testtree.Text(3, 100)),
		testtree.File("1/large", 0o644, testtree.Text(4, 300<<10)),
		testtree.File("1/sparse", 0o644, testtree.Zeros(300<<10)),
	}
	end := int64(4096)
	for i, offset := range []int64{4096, far} {
		p, err := squashfs.NewPacker(f, offset, nil)
		if err != nil {
			t.Fatal(err)
		}
		var entries []squashfs.Entry
		for _, e := range tree {
			if strings.HasPrefix(e.Path, fmt.Sprint(i)) {
				s := entry(e)
				if s.Content, err = p.Add(t.Context(), strings.NewReader(string(e.Data)), s.Size); err != nil {
					t.Fatal(err)
				}
				entries = append(entries, s)
			}
		}
		pack, err := p.Close()
		if err != nil {
			t.Fatal(err)
		}
		id, err := b.AddPack(pack, offset)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			e.Pack = id
			if err := b.Add(e); err != nil {
				t.Fatal(err)
			}
		}
		end = offset + pack.Size
	}
	if err := b.Add(entry(tree[0])); err != nil {
		t.Fatal(err)
	}
	if _, err := b.WriteTables(t.Context(), f, end); err != nil {
		t.Fatal(err)
	}
	diffDir(t, tree.Listing(), oracle.KernelMount(t, image), nil)
}

func TestFromTarXattrs(t *testing.T) {
	oracle.Root(t)
	archive := tarOf(t, tar.Header{
		Name: "f", Mode: 0o644, Typeflag: tar.TypeReg, Format: tar.FormatPAX,
		PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability":  capability,
			"SCHILY.xattr.user.both":            "raw",
			"LIBARCHIVE.xattr.user.both":        base64.StdEncoding.EncodeToString([]byte("base64")),
			"LIBARCHIVE.xattr.user.a%3Db":       base64.StdEncoding.EncodeToString([]byte("\x00\x01")),
			"LIBARCHIVE.xattr.user.unpadded":    base64.RawStdEncoding.EncodeToString([]byte("x")),
			"SCHILY.xattr.security.selinux":     "dropped",
			"SCHILY.xattr.system.posix_acl":     "no room",
			"LIBARCHIVE.creationtime":           "1",
			"SCHILY.fflags":                     "nodump",
			"VENDOR.xattr.user.not-an-xattr":    "x",
			"LIBARCHIVE.xattr.security.selinux": "ZHJvcHBlZA",
		},
	})
	image := fromTar(t, archive, &squashfs.FromTarOptions{Skip: func(path, name string) bool {
		return name == "security.selinux"
	}})
	want := testtree.FormatXattrs(map[string]string{
		"security.capability": capability, "user.both": "raw", "user.a=b": "\x00\x01", "user.unpadded": "x",
	})
	if got := mustWalk(t, oracle.KernelMount(t, image))["f"].Xattrs; got != want {
		t.Errorf("xattrs are\n%swant\n%s", got, want)
	}
}

func TestFromTarFormats(t *testing.T) {
	oracle.Root(t)
	gnutar := oracle.Tool(t, "tar")
	src := t.TempDir()
	tree := testtree.Tree{
		testtree.File("dir/file", 0o640, "contents", testtree.Owner(10, 20)),
		testtree.Hardlink("dir/hard", "dir/file"),
		testtree.Symlink("link", "dir/file"),
		testtree.Char("null", 0o666, 1, 3),
		testtree.FIFO("fifo", 0o600),
	}
	tree.Dir(t, src)
	sparse, err := os.Create(filepath.Join(src, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer sparse.Close()
	if _, err := sparse.WriteAt([]byte("end"), 3<<20); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"gnu", "pax"} {
		archive, err := exec.Command(gnutar, "--sparse", "--format="+format, "-C", src, "-c", ".").Output()
		if err != nil {
			t.Fatal(err)
		}
		if len(archive) > 1<<20 {
			t.Fatalf("archive of %d bytes is not sparse", len(archive))
		}
		diffDir(t, mustWalk(t, src), oracle.KernelMount(t, fromTar(t, archive, nil)), nil)
	}
}

func fromTar(t testing.TB, archive []byte, opts *squashfs.FromTarOptions) string {
	return create(t, nil, func(ctx context.Context, w *squashfs.Writer) error {
		return w.FromTar(ctx, bytes.NewReader(archive), opts)
	})
}
