package testtree_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
)

// everything has one entry of each kind and each trait that a listing holds.
func everything() testtree.Tree {
	return testtree.Tree{
		testtree.Dir("usr", 0o755),
		testtree.Dir("usr/bin", 0o2755, testtree.Owner(0, 50)),
		testtree.File("usr/bin/su", 0o4755, "#!/bin/sh\n", testtree.Xattr("user.b", "2\x00"), testtree.Xattr("user.a", "1")),
		testtree.Hardlink("usr/bin/doas", "usr/bin/su"),
		testtree.File("usr/big", 0o640, testtree.Bytes(1, 300_000), testtree.Owner(1000, 1001), testtree.MTime(1)),
		testtree.Symlink("bin", "usr/bin", testtree.Owner(7, 8)),
		testtree.Dir("tmp", 0o1777),
		testtree.Dir("dev", 0o755),
		testtree.Char("dev/null", 0o666, 1, 3),
		testtree.Block("dev/loop300", 0o660, 7, 300),
		testtree.FIFO("dev/initctl", 0o600),
		testtree.File("var/lib/deep/empty", 0o600, ""),
	}
}

func noDiff(t *testing.T, want, got testtree.Listing, o *testtree.DiffOptions) {
	t.Helper()
	if diff := testtree.Diff(want, got, o); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestDirAndWalkAgree(t *testing.T) {
	oracle.Root(t)
	root := t.TempDir()
	everything().Dir(t, root)
	got, err := testtree.Walk(root)
	if err != nil {
		t.Fatal(err)
	}
	noDiff(t, everything().Listing(), got, nil)
	if n := got["usr/bin/su"]; n.Links != 2 || n.Group != "usr/bin/doas" || n.Xattrs != "user.a=\"1\"\nuser.b=\"2\\x00\"\n" {
		t.Errorf("usr/bin/su is %+v", n)
	}
}

// TestTarAgrees unpacks with tar(1), which knows nothing of ours.
func TestTarAgrees(t *testing.T) {
	oracle.Root(t)
	for _, o := range []*testtree.TarOptions{nil, {Format: tar.FormatPAX, Prefix: "./"}, {NoSlash: true}} {
		root := t.TempDir()
		cmd := exec.Command(oracle.Tool(t, "tar"), "-x", "--xattrs", "--xattrs-include=*", "--same-owner", "-p", "--numeric-owner", "-C", root)
		cmd.Stdin = bytes.NewReader(everything().Tar(o))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("tar: %v\n%s", err, out)
		}
		got, err := testtree.Walk(root)
		if err != nil {
			t.Fatal(err)
		}
		noDiff(t, everything().Listing(), got, nil)
	}
}

func TestDirAsOrdinaryUser(t *testing.T) {
	tree := testtree.Tree{
		testtree.Dir("closed", 0o500),
		testtree.File("closed/secret", 0o400, "x"),
		testtree.Symlink("closed/link", "/nowhere"),
		testtree.FIFO("pipe", 0o600),
	}
	root := t.TempDir()
	tree.Dir(t, root)
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(root, "closed"), 0o700) })
	got, err := testtree.Walk(root)
	if err != nil {
		t.Fatal(err)
	}
	noDiff(t, tree.Listing(), got, &testtree.DiffOptions{IgnoreOwner: true})
}

func TestFromFS(t *testing.T) {
	fsys := fstest.MapFS{
		"a/b": {Data: []byte("hello"), Mode: 0o644},
		"a/l": {Data: []byte("b"), Mode: fs.ModeSymlink | 0o777},
	}
	got, err := testtree.FromFS(fsys)
	if err != nil {
		t.Fatal(err)
	}
	want := testtree.Tree{
		testtree.Dir("a", 0o555),
		testtree.File("a/b", 0o644, "hello"),
		testtree.Symlink("a/l", "b"),
	}.Listing()
	noDiff(t, want, got, &testtree.DiffOptions{IgnoreMTime: true, IgnoreLinks: true})
}

func TestListing(t *testing.T) {
	for _, test := range []struct {
		name string
		tree testtree.Tree
		path string
		want string // part of the node's text; "" for none
	}{
		{"the last entry counts", testtree.Tree{testtree.File("a", 0o600, "1"), testtree.File("a", 0o640, "22")}, "a", "-rw-r----- 0:0 mtime=1700000000 size=2"},
		{"a link to a link", testtree.Tree{testtree.File("a", 0o600, "1"), testtree.Hardlink("b", "a"), testtree.Hardlink("c", "b")}, "c", `hard link of "a"`},
		{"a link no more", testtree.Tree{testtree.File("a", 0o600, "1"), testtree.Hardlink("b", "a"), testtree.File("b", 0o600, "1")}, "b", "size=1"},
		{"whiteout", testtree.Tree{testtree.Whiteout("etc/motd")}, "etc/.wh.motd", "size=0"},
		{"opaque", testtree.Tree{testtree.Opaque("etc")}, "etc/.wh..wh..opq", "size=0"},
		{"opaque root", testtree.Tree{testtree.Opaque(".")}, ".wh..wh..opq", "size=0"},
		{"slashes", testtree.Tree{testtree.Dir("/etc/", 0o700)}, "etc", "drwx------"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, ok := test.tree.Listing()[test.path]
			if !ok || !strings.Contains(n.String(), test.want) {
				t.Errorf("%s is %q (%v), want %q", test.path, n, ok, test.want)
			}
		})
	}
}

func TestDiff(t *testing.T) {
	base := testtree.Tree{
		testtree.Dir("d", 0o755),
		testtree.File("d/f", 0o644, "one", testtree.Xattr("user.k", "v"), testtree.Xattr("security.x", "1")),
	}
	for _, test := range []struct {
		name  string
		other testtree.Tree
		o     *testtree.DiffOptions
		want  string
	}{
		{"equal", base, nil, ""},
		{"mode", testtree.Tree{base[0], testtree.File("d/f", 0o4644, "one", testtree.Xattr("user.k", "v"), testtree.Xattr("security.x", "1"))}, nil, "  d/f: mode: --rw-r--r-- +urw-r--r--\n"},
		{"xattrs", testtree.Tree{base[0], testtree.File("d/f", 0o644, "one", testtree.Xattr("user.k", "w"))}, &testtree.DiffOptions{IgnoreXattrs: []string{"security."}}, "  d/f: xattrs: -user.k=\"v\" +user.k=\"w\"\n"},
		{"no xattrs", testtree.Tree{base[0], testtree.File("d/f", 0o644, "one")}, &testtree.DiffOptions{IgnoreXattrs: []string{""}}, ""},
		{"contents", testtree.Tree{base[0], testtree.File("d/f", 0o644, "two")}, &testtree.DiffOptions{IgnoreXattrs: []string{""}}, "  d/f: sha256: -7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed +3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3\n"},
		{"subtree", testtree.Tree{}, nil, "- d: drwxr-xr-x 0:0 mtime=1700000000\n- d/… (1 entries below)\n"},
		{"owner and time ignored", testtree.Tree{
			testtree.Dir("d", 0o755, testtree.Owner(1, 1), testtree.MTime(5)),
			testtree.File("d/f", 0o644, "one", testtree.Owner(2, 2)),
		}, &testtree.DiffOptions{IgnoreOwner: true, IgnoreMTime: true, IgnoreXattrs: []string{""}}, ""},
		{"entries ignored", testtree.Tree{base[0]}, &testtree.DiffOptions{Ignore: func(p string) bool { return p == "d/f" }}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := testtree.Diff(base.Listing(), test.other.Listing(), test.o); got != test.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, test.want)
			}
		})
	}
}

func TestDiffIsBounded(t *testing.T) {
	var a, b testtree.Tree
	for i := range 60_000 {
		a = append(a, testtree.File(fmt.Sprintf("d%d/f%d", i%100, i), 0o644, ""))
		b = append(b, testtree.File(fmt.Sprintf("d%d/f%d", i%100, i), 0o600, ""))
	}
	diff := testtree.Diff(a.Listing(), b.Listing(), &testtree.DiffOptions{Limit: 10})
	if lines := strings.Count(diff, "\n"); lines != 11 {
		t.Errorf("%d lines:\n%s", lines, diff)
	}
	if want := "… and 59990 more differences\n"; !strings.HasSuffix(diff, want) {
		t.Errorf("no %q in\n%s", want, diff)
	}
}

func TestSub(t *testing.T) {
	tree := testtree.Tree{
		testtree.Dir("rootfs", 0o755), testtree.File("rootfs/a", 0o600, "x"), testtree.Hardlink("rootfs/b", "rootfs/a"),
		testtree.File("config.json", 0o600, "{}"),
	}
	want := testtree.Tree{testtree.Dir(".", 0o755), testtree.File("a", 0o600, "x"), testtree.Hardlink("b", "a")}
	noDiff(t, want.Listing(), tree.Listing().Sub("rootfs"), nil)
}

func TestData(t *testing.T) {
	if !slices.Equal(testtree.Bytes(3, 1000), testtree.Bytes(3, 1000)) || slices.Equal(testtree.Bytes(3, 1000), testtree.Bytes(4, 1000)) {
		t.Error("Bytes does not follow its seed")
	}
	random, text := len(testtree.Gzip(testtree.Bytes(1, 1<<16))), len(testtree.Gzip(testtree.Text(1, 1<<16)))
	if random < 1<<16 || text > 1<<15 {
		t.Errorf("64 KiB compress to %d (Bytes) and %d (Text)", random, text)
	}
	if len(testtree.Text(1, 12345)) != 12345 || len(testtree.Zeros(5)) != 5 {
		t.Error("wrong sizes")
	}
}

func ExampleTree() {
	tree := testtree.Tree{
		testtree.Dir("etc", 0o755),
		testtree.File("etc/motd", 0o644, "hello\n"),
		testtree.Whiteout("etc/issue"),
	}
	tr := tar.NewReader(bytes.NewReader(tree.Tar(nil)))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return
		}
		fmt.Println(h.FileInfo().Mode(), h.Name)
	}
	// Output:
	// drwxr-xr-x etc/
	// -rw-r--r-- etc/motd
	// ---------- etc/.wh.issue
}
