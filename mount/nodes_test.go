package mount_test

import (
	"errors"
	"io"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"hpcimg/internal/testtree"
	"hpcimg/mount"
	"hpcimg/squashfs"
)

// find looks a path up in a tree, without following links.
func find(t mount.Tree, name string) (mount.NodeID, error) {
	node := t.Root()
	for part := range strings.SplitSeq(name, "/") {
		var err error
		if node, err = t.Lookup(node, part); err != nil {
			return 0, err
		}
	}
	return node, nil
}

func content(t *testing.T, tree mount.Tree, name string) string {
	t.Helper()
	node, err := find(tree, name)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return ""
	}
	data, err := io.ReadAll(io.NewSectionReader(readerAt{tree, node}, 0, 1<<30))
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return string(data)
}

type readerAt struct {
	tree mount.Tree
	node mount.NodeID
}

func (r readerAt) ReadAt(p []byte, off int64) (int, error) { return r.tree.ReadAt(r.node, p, off) }

// names lists a directory in steps of one entry, as a kernel with little room does.
func names(t *testing.T, tree mount.Tree, dir string) []string {
	t.Helper()
	node := tree.Root()
	if dir != "." {
		var err error
		if node, err = find(tree, dir); err != nil {
			t.Fatal(err)
		}
	}
	var list []string
	for from := uint64(0); ; {
		more := false
		for e, err := range tree.ReadDir(node, from) {
			if err != nil {
				t.Fatal(err)
			}
			list, from, more = append(list, e.Name), e.Next, true
			break
		}
		if !more {
			return list
		}
	}
}

func baseTree(t *testing.T) mount.Tree {
	t.Helper()
	image := writeImage(t, testtree.Tree{
		testtree.Dir(".", 0o755),
		testtree.Dir("etc", 0o755),
		testtree.File("etc/passwd", 0o644, "old\n"),
		testtree.File("etc/hosts", 0o644, "hosts\n"),
		testtree.Symlink("etc/resolv.conf", "../run/stub.conf"),
		testtree.Dir("run", 0o755),
		testtree.Dir("var", 0o755),
		testtree.Symlink("var/run", "/run"),
		testtree.Symlink("var/out", "../../../../../run"),
		testtree.Symlink("loop", "loop"),
	}, &squashfs.WriterOptions{})
	return mount.NewTree(openImage(t, image), nil)
}

func TestWithNodes(t *testing.T) {
	base := baseTree(t)
	tree, err := mount.WithNodes(base, []mount.Node{
		{Path: "/etc/passwd", Mode: 0o644, Data: []byte("new\n")},
		{Path: "etc/group", Mode: 0o644, Data: []byte("group\n"), UID: 7},
		{Path: "etc/resolv.conf", Mode: 0o644, Data: []byte("stub\n"), Follow: true},
		{Path: "mnt/deep/er", Mode: fs.ModeDir | 0o700},
		{Path: "var/run/munge", Mode: fs.ModeDir | 0o755},
		{Path: "var/out/x", Mode: 0o600, Data: []byte("x")},
		{Path: "etc", Mode: fs.ModeDir | 0o777},
		{Path: "lib", Mode: fs.ModeSymlink | 0o777, Target: "usr/lib"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"etc/passwd": "new\n", "etc/hosts": "hosts\n", "etc/group": "group\n", "run/stub.conf": "stub\n", "run/x": "x",
	} {
		if got := content(t, tree, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for dir, want := range map[string]string{
		".": "etc loop run var mnt lib", "etc": "hosts resolv.conf passwd group", "mnt/deep": "er", "mnt/deep/er": "", "run": "stub.conf munge x",
	} {
		if got := strings.Join(names(t, tree, dir), " "); got != want {
			t.Errorf("%s: %q, want %q", dir, got, want)
		}
	}
	if content(t, base, "etc/passwd") != "old\n" {
		t.Error("the base has changed")
	}
	node, _ := find(tree, "etc")
	if a, err := tree.Attr(node); err != nil || a.Mode != fs.ModeDir|0o755 {
		t.Errorf("a directory that was there: %v, %v", a.Mode, err)
	}
	root, err := tree.Attr(tree.Root())
	before, _ := base.Attr(base.Root())
	if err != nil || root.Links != before.Links+1 {
		t.Errorf("%d links, %d before, %v", root.Links, before.Links, err)
	}
	node, err = find(tree, "lib")
	if target, readErr := tree.Readlink(node); err != nil || readErr != nil || target != "usr/lib" {
		t.Errorf("lib: %q, %v, %v", target, err, readErr)
	}
}

// TestWithNodesTwice puts nodes over nodes.
func TestWithNodesTwice(t *testing.T) {
	one, err := mount.WithNodes(baseTree(t), []mount.Node{
		{Path: "etc/one", Mode: 0o644, Data: []byte("1")}, {Path: "new", Mode: fs.ModeDir | 0o755}, {Path: "etc/passwd", Mode: 0o644, Data: []byte("1")},
	})
	if err != nil {
		t.Fatal(err)
	}
	two, err := mount.WithNodes(one, []mount.Node{
		{Path: "etc/two", Mode: 0o644, Data: []byte("2")}, {Path: "new/er", Mode: 0o600, Data: []byte("n")}, {Path: "etc/passwd", Mode: 0o644, Data: []byte("2")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(names(t, two, "etc"), " "); got != "hosts resolv.conf one two passwd" {
		t.Errorf("etc: %s", got)
	}
	if got := content(t, two, "etc/one") + content(t, two, "etc/two") + content(t, two, "new/er") + content(t, two, "etc/passwd"); got != "12n2" {
		t.Errorf("contents %q", got)
	}
}

func TestWithNodesErrors(t *testing.T) {
	base := baseTree(t)
	for path, want := range map[string]error{
		"loop/x": syscall.ELOOP, "etc/hosts/x": syscall.ENOTDIR, "etc": syscall.EISDIR, "/": syscall.EISDIR, "a\x00b": fs.ErrInvalid,
		strings.Repeat("n", 256): syscall.ENAMETOOLONG, strings.Repeat("n/", 3000): fs.ErrInvalid,
	} {
		_, err := mount.WithNodes(base, []mount.Node{{Path: path, Mode: 0o644}})
		if _, ok := errors.AsType[*fs.PathError](err); !ok || !errors.Is(err, want) {
			t.Errorf("%.20q: %v, want %v", path, err, want)
		}
	}
	if _, err := mount.WithNodes(base, []mount.Node{{Path: "x", Mode: fs.ModeSocket}}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("socket: %v", err)
	}
}
