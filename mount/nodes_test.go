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

// TestJoin looks through one tree into several, of which one has nodes that were added.
func TestJoin(t *testing.T) {
	base := baseTree(t)
	attrs := mount.NewTree(openImage(t, writeImage(t, sample(), nil)), nil)
	tree, err := mount.Join(mount.Branch{Name: "one", Tree: base}, mount.Branch{Name: "two", Tree: base}, mount.Branch{Name: "three", Tree: attrs})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(names(t, tree, "."), " "); got != "one two three" {
		t.Errorf("the root directory has %q", got)
	}
	want := names(t, base, ".")
	if got := names(t, tree, "two"); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("a branch has %q, not %q", got, want)
	}
	if got, want := content(t, tree, "three/a/noise"), string(testtree.Bytes(1, 300_001)); got != want {
		t.Errorf("%d bytes", len(got))
	}
	// One file in two branches is two files, by all that tells files apart.
	numbers := make(map[uint64]string)
	for _, name := range []string{"one", "two", "three", "three/a", "three/a/noise", "one/" + want[0], "two/" + want[0]} {
		node, err := find(tree, name)
		if err != nil {
			t.Fatal(err)
		}
		a, err := tree.Attr(node)
		if other, twice := numbers[a.Number]; twice || err != nil {
			t.Errorf("%s and %s: inode %d, %v", name, other, a.Number, err)
		}
		numbers[a.Number] = name
	}
	if node, err := find(tree, "three/a/attrs"); err != nil {
		t.Error(err)
	} else if m, err := tree.Xattrs(node); err != nil || len(m) == 0 {
		t.Errorf("attributes: %v, %v", m, err)
	}
	if s := tree.Statfs(); s.Nodes != 2*base.Statfs().Nodes+attrs.Statfs().Nodes || s.BlockSize == 0 {
		t.Errorf("%+v", s)
	}
	added, err := mount.WithNodes(tree, []mount.Node{{Path: "two/new/file", Data: []byte("new")}})
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, added, "two/new/file"); got != "new" {
		t.Errorf("added: %q", got)
	}
	if _, err := find(added, "one/new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("added elsewhere: %v", err)
	}
	if _, err := tree.Attr(1<<60 + 1); !errors.Is(err, syscall.ESTALE) {
		t.Errorf("no node: %v", err)
	}
	for _, bad := range [][]mount.Branch{
		{{Name: "", Tree: base}},
		{{Name: ".", Tree: base}},
		{{Name: "..", Tree: base}},
		{{Name: "a/b", Tree: base}},
		{{Name: "a", Tree: base}, {Name: "a", Tree: base}},
		make([]mount.Branch, mount.MaxBranches+1),
	} {
		if _, err := mount.Join(bad...); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%d branches, the first %q: %v", len(bad), bad[0].Name, err)
		}
	}
}
