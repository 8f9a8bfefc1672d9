package export_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hpcimg/convert/internal/export"
	"hpcimg/convert/internal/layer"
	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

// sample has a bit of everything.
func sample() testtree.Tree {
	t := testtree.Tree{
		testtree.Dir("bin", 0o755), testtree.File("bin/su", 0o4755, testtree.Bytes(1, 3<<20), testtree.Owner(0, 7)), testtree.Hardlink("bin/sudo", "bin/su"),
		testtree.Dir("tmp", 0o1777), testtree.Symlink("lib", "usr/lib"), testtree.Symlink("long", strings.Repeat("x/", 200)),
		testtree.Char("dev/null", 0o666, 1, 3), testtree.Block("dev/sda", 0o660, 8, 1<<19), testtree.FIFO("dev/fifo", 0o600), testtree.Hardlink("dev/fifo2", "dev/fifo"),
		testtree.Hardlink("lib2", "lib"), testtree.Dir("closed", 0), testtree.File("closed/f", 0, "closed"),
		testtree.File("empty", 0o600, ""), testtree.File("zeros", 0o644, make([]byte, 5<<20)),
		testtree.File("cap", 0o755, "x", testtree.Xattr("security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00"+strings.Repeat("\x00", 12))),
		testtree.File("user", 0o644, "x", testtree.Xattr("user.a", strings.Repeat("\x00\n=b", 500)), testtree.Owner(1<<31, 65534)),
		testtree.File("user2", 0o644, "x", testtree.Xattr("user.empty", ""), testtree.Xattr("user.other", "v")),
		testtree.File(strings.Repeat("deep/", 60)+"f", 0o644, "f"), testtree.File(strings.Repeat("n", 255), 0o644, "long name"),
		testtree.File("line\nbreak", 0o644, "odd name"), testtree.File("日本", 0o644, "UTF-8"),
		testtree.File(" *?[x]\\t'\"", 0o644, "odd name"), testtree.File("late", 0o644, "x", testtree.MTime(1<<32-1)),
	}
	for i := range 300 {
		t = append(t, testtree.File(fmt.Sprintf("usr/lib/%d", i), 0o644, testtree.Text(uint64(i), 100*i), testtree.MTime(int64(i))))
	}
	return t
}

// write makes an image.
func write(t testing.TB, fill func(ctx context.Context, w *squashfs.Writer) error) *squashfs.Reader {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.sqfs")
	if err := squashfs.Create(t.Context(), path, &squashfs.WriterOptions{Compression: squashfs.CompressionLZ4}, fill); err != nil {
		t.Fatal(err)
	}
	r, err := squashfs.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func image(t testing.TB, tree testtree.Tree) *squashfs.Reader {
	t.Helper()
	return fromTar(t, bytes.NewReader(tree.Tar(nil)))
}

func fromTar(t testing.TB, stream io.Reader) *squashfs.Reader {
	t.Helper()
	return write(t, func(ctx context.Context, w *squashfs.Writer) error { return w.FromTar(ctx, stream, nil) })
}

func entries(t testing.TB, all ...squashfs.Entry) *squashfs.Reader {
	t.Helper()
	return write(t, func(ctx context.Context, w *squashfs.Writer) error {
		for _, e := range all {
			if err := w.Add(ctx, e, strings.NewReader("contents")); err != nil {
				return err
			}
		}
		return nil
	})
}

func tarOf(t testing.TB, r *squashfs.Reader, o *export.TarOptions) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := export.Tar(t.Context(), &b, r, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func listing(t testing.TB, r *squashfs.Reader) testtree.Listing {
	t.Helper()
	l, err := testtree.FromFS(r)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func same(t testing.TB, want, got testtree.Listing) {
	t.Helper()
	if d := testtree.Diff(want, got, nil); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// TestTar reads the stream back into an image, which must be the same tree, and wants the same stream from any number of workers.
func TestTar(t *testing.T) {
	r := image(t, sample())
	var progress int64
	stream := tarOf(t, r, &export.TarOptions{Workers: 1, Progress: func(n int64) { progress += n }})
	for _, workers := range []int{0, 2, 7} {
		if !bytes.Equal(stream, tarOf(t, r, &export.TarOptions{Workers: workers})) {
			t.Errorf("%d workers: another stream", workers)
		}
	}
	want := listing(t, r)
	same(t, want, listing(t, fromTar(t, bytes.NewReader(stream))))
	var total int64
	for _, n := range want {
		if n.Group == "" || n.Group == "bin/su" && n.Links == 2 {
			total += n.Size
		}
	}
	total -= want["bin/sudo"].Size
	if progress != total {
		t.Errorf("progress of %d bytes, want %d", progress, total)
	}
}

// TestTarByOthers unpacks the stream with GNU tar, and compares with what the kernel makes of the image.
func TestTarByOthers(t *testing.T) {
	oracle.Root(t)
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "image.sqfs")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := squashfs.Create(t.Context(), path, nil, func(ctx context.Context, w *squashfs.Writer) error {
		tree := append(sample(), testtree.File("\xff\xfe no UTF-8", 0o644, "odd name"))
		return w.FromTar(ctx, bytes.NewReader(tree.Tar(nil)), nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := squashfs.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	want, err := testtree.Walk(oracle.KernelMount(t, path))
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(archive, tarOf(t, r, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "tar", "-C", dir, "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", archive)
	got, err := testtree.Walk(dir)
	if err != nil {
		t.Fatal(err)
	}
	same(t, want, got)
}

// TestTarOrder wants directories before what is in them, names in order, and files before further names of theirs.
func TestTarOrder(t *testing.T) {
	stream := tarOf(t, image(t, sample()), nil)
	if tail := stream[len(stream)-1024:]; !bytes.Equal(tail, make([]byte, 1024)) || len(stream)%512 != 0 {
		t.Error("no end of archive")
	}
	seen := map[string]bool{}
	last := ""
	for _, h := range headers(t, stream) {
		name := strings.TrimSuffix(h.Name, "/")
		if name != "." {
			if dir := filepath.Dir(name); !seen[dir] {
				t.Errorf("%q comes before %q", name, dir)
			}
			if slices.Compare(strings.Split(last, "/"), strings.Split(name, "/")) >= 0 {
				t.Errorf("%q comes after %q", name, last)
			}
			last = name
		}
		if h.Typeflag == tar.TypeLink && !seen[h.Linkname] {
			t.Errorf("%q is a link to %q, which comes later", name, h.Linkname)
		}
		seen[name] = true
	}
}

func headers(t testing.TB, stream []byte) (all []*tar.Header) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(stream))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h)
	}
}

// TestTarSkips leaves out what there is no room for, under all of its names.
func TestTarSkips(t *testing.T) {
	r := entries(
		t, squashfs.Entry{Path: "socket", Mode: fs.ModeSocket | 0o600}, squashfs.Entry{Path: "socket2", HardLink: "socket"},
		squashfs.Entry{Path: ".wh.file", Size: 8}, squashfs.Entry{Path: "other", HardLink: ".wh.file"}, squashfs.Entry{Path: ".wh.dir/f", Size: 8},
		squashfs.Entry{Path: "d/.wh..wh..opq"}, squashfs.Entry{Path: "d/x.wh.y"},
	)
	for _, c := range []struct {
		name          string
		o             export.TarOptions
		want, skipped []string
	}{
		{
			"tar",
			export.TarOptions{},
			[]string{"./", ".wh.dir/", ".wh.dir/f", ".wh.file", "d/", "d/.wh..wh..opq", "d/x.wh.y", "other=.wh.file"},
			[]string{"socket", "socket2"},
		},
		{
			"layer",
			export.TarOptions{Layer: true},
			[]string{"./", "d/", "d/x.wh.y", "other"},
			[]string{".wh.dir", ".wh.file", "d/.wh..wh..opq", "socket", "socket2"},
		},
		{
			"some, renamed",
			export.TarOptions{
				Accept: func(path string) bool { return path != "d" && path != ".wh.dir" }, Rename: func(path string) string { return "in/" + path },
			},
			[]string{"in/./", "in/.wh.file", "in/other=in/.wh.file"},
			[]string{"socket", "socket2"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var skipped, got []string
			c.o.Skipped = func(path string) { skipped = append(skipped, path) }
			for _, h := range headers(t, tarOf(t, r, &c.o)) {
				name := h.Name
				if h.Typeflag == tar.TypeLink {
					name += "=" + h.Linkname
				}
				got = append(got, name)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			if d := cmp.Diff(c.skipped, skipped); d != "" {
				t.Errorf("skipped (-want +got)\n%s", d)
			}
		})
	}
}

// TestTarXattrs has as much as Linux lets a file have, and names that are hard to write down.
func TestTarXattrs(t *testing.T) {
	many := map[string]string{}
	for i := range 65 {
		many[fmt.Sprintf("user.%d", i)] = string(testtree.Bytes(uint64(i), 1000))
	}
	odd := map[string]string{"user.a=b": "\x00=\n", "user.%3D=%": "percent", "user. \n日本": "x", "trusted.t": "y"}
	r := entries(t, squashfs.Entry{Path: "many", Xattrs: many}, squashfs.Entry{Path: "odd", Xattrs: odd})
	budget := &layer.Budget{}
	stream, err := layer.Open(io.NopCloser(bytes.NewReader(tarOf(t, r, nil))), "")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	entries := layer.NewTar(stream, budget, nil)
	found := 0
	for {
		e, err := entries.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]map[string]string{"many": many, "odd": odd} {
			if e.Path != name {
				continue
			}
			found++
			if d := cmp.Diff(want, e.Xattrs); d != "" {
				t.Errorf("%s: (-want +got)\n%s", name, d)
			}
		}
	}
	if found != 2 {
		t.Errorf("%d entries", found)
	}
}

// TestTarLimits has trees that no tar archive, or no reader of one, has room for.
func TestTarLimits(t *testing.T) {
	large := map[string]string{}
	for i := range 17 {
		large[fmt.Sprintf("user.%d", i)] = strings.Repeat("x", 64<<10)
	}
	for name, e := range map[string]squashfs.Entry{
		"attributes": {Path: "f", Xattrs: large},
		"path":       {Path: strings.Repeat(strings.Repeat("n", 250)+"/", 17) + "f"},
		"depth":      {Path: strings.Repeat("d/", 2100) + "f"},
	} {
		err := export.Tar(t.Context(), io.Discard, entries(t, e), nil)
		where, ok := errors.AsType[*layer.EntryError](err)
		if !errors.Is(err, layer.ErrLimit) || !ok || len(err.Error()) > 500 {
			t.Errorf("%s: error %v", name, err)
		} else if !strings.HasPrefix(e.Path, where.Name) {
			t.Errorf("%s: error is about %q", name, where.Name)
		}
	}
}

// TestTarStops ends in the middle.
func TestTarStops(t *testing.T) {
	r := image(t, sample())
	for _, workers := range []int{1, 3} {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		o := &export.TarOptions{Workers: workers, Progress: func(int64) {
			if n++; n == 3 {
				cancel()
			}
		}}
		if err := export.Tar(ctx, io.Discard, r, o); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		cancel()
		full := errors.New("full")
		for _, n := range []int{0, 1000, 2 << 20} {
			if err := export.Tar(t.Context(), &failing{n, full}, r, &export.TarOptions{Workers: workers}); !errors.Is(err, full) {
				t.Errorf("writer that fails after %d bytes: %v", n, err)
			}
		}
		if err := export.Tar(t.Context(), short{}, r, nil); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("writer that takes less: %v", err)
		}
	}
}

type failing struct {
	left int
	err  error
}

func (f *failing) Write(p []byte) (int, error) {
	if len(p) > f.left {
		return f.left, f.err
	}
	f.left -= len(p)
	return len(p), nil
}

type short struct{}

func (short) Write(p []byte) (int, error) { return len(p) - 1, nil }

// TestTarDamaged names the file whose contents are damaged.
func TestTarDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image.sqfs")
	err := squashfs.Create(t.Context(), path, &squashfs.WriterOptions{Compression: squashfs.CompressionGzip}, func(ctx context.Context, w *squashfs.Writer) error {
		return w.Add(ctx, squashfs.Entry{Path: "dir/file", Size: 1 << 20}, bytes.NewReader(testtree.Text(1, 1<<20)))
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(testtree.Bytes(1, 5000), 5000); err != nil {
		t.Fatal(err)
	}
	r, err := squashfs.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	err = export.Tar(t.Context(), io.Discard, r, nil)
	if e, ok := errors.AsType[*layer.EntryError](err); !ok || e.Name != "dir/file" || !errors.Is(err, squashfs.ErrFormat) {
		t.Errorf("error %v", err)
	}
}
