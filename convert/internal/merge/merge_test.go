package merge_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"hpcimg/convert/internal/layer"
	"hpcimg/convert/internal/merge"
)

// entries reads the shorthand of these tests: "d/" is a directory, "f" a file, "-f" a whiteout, "d/!" an opaque marker, "a=b" a hard
// link and "a>b" a symbolic link.
func entries(list string) []layer.Entry {
	var all []layer.Entry
	for s := range strings.FieldsSeq(list) {
		var e layer.Entry
		if at := strings.IndexAny(s, "=>"); at > 0 {
			e = layer.Entry{Path: s[:at], Kind: layer.HardLink, Link: s[at+1:]}
			if s[at] == '>' {
				e.Kind = layer.Symlink
			}
		} else if rest, ok := strings.CutPrefix(s, "-"); ok {
			e = layer.Entry{Path: rest, Kind: layer.Whiteout}
		} else if rest, ok := strings.CutSuffix(s, "/!"); ok {
			e = layer.Entry{Path: rest, Kind: layer.Opaque}
		} else if rest, ok := strings.CutSuffix(s, "/"); ok {
			e = layer.Entry{Path: rest, Kind: layer.Dir}
		} else {
			e = layer.Entry{Path: s, Kind: layer.File}
		}
		all = append(all, e)
	}
	return all
}

// list writes a tree in the same shorthand, with the layer from which each file comes.
func list(t *testing.T, tree *merge.Tree) string {
	t.Helper()
	var all []string
	err := tree.Walk(func(path string, i *merge.Inode, first string) error {
		switch {
		case path == ".":
		case first != "":
			all = append(all, path+"="+first)
		case i.Kind == layer.Dir:
			all = append(all, path+"/")
		case i.Kind == layer.Symlink:
			all = append(all, path+">"+i.Link)
		default:
			all = append(all, fmt.Sprintf("%s:%d", path, i.Layer))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, " ")
}

func apply(layers ...string) (*merge.Tree, error) {
	tree := merge.NewTree(0)
	for i, l := range layers {
		if err := tree.Apply(context.Background(), int32(i), layer.ListOf(entries(l)...)); err != nil {
			return tree, err
		}
	}
	return tree, nil
}

func TestApply(t *testing.T) {
	tests := []struct {
		name   string
		layers []string
		want   string
		err    error
	}{
		{"parents are made", []string{"a/b/c"}, "a/ a/b/ a/b/c:0", nil},
		{"last wins", []string{"a a"}, "a:0", nil},
		{"upper wins", []string{"a b", "a"}, "a:1 b:0", nil},
		{"file over directory", []string{"d/ d/a", "d"}, "d:1", nil},
		{"directory over directory", []string{"d/ d/a", "d/ d/b"}, "d/ d/a:0 d/b:1", nil},
		{"file in the way of a path", []string{"f", "f/a"}, "f/ f/a:1", nil},
		{"file in the way of a long path", []string{"f", "f/a/b/c"}, "f/ f/a/ f/a/b/ f/a/b/c:1", nil},
		{"whiteout", []string{"a b", "-a"}, "b:0", nil},
		{"whiteout before its own file", []string{"a", "-a a"}, "a:1", nil},
		{"whiteout after its own file", []string{"a", "a -a"}, "a:1", nil},
		{"whiteout below a file", []string{"a", "-a/b"}, "a:0", nil},
		{"whiteout keeps what its layer added", []string{"d/a d/b", "d/c -d"}, "d/ d/c:1", nil},
		{"whiteout is for its own layer only", []string{"a", "-a", "a"}, "a:2", nil},
		{"opaque", []string{"d/a d/e/b", "d/! d/c"}, "d/ d/c:1", nil},
		{"opaque later", []string{"d/a d/e/b", "d/e/c d/!"}, "d/ d/e/ d/e/c:1", nil},
		{"opaque nested", []string{"d/a d/e/b", "d/e/! d/e/c d/!"}, "d/ d/e/ d/e/c:1", nil},
		{"opaque on nothing", []string{"a", "x/!"}, "a:0", nil},
		{"hard link", []string{"a b=a"}, "a:0 b=a", nil},
		{"hard link below", []string{"a", "b=a"}, "a:0 b=a", nil},
		{"hard link survives", []string{"a b=a", "-a"}, "b:0", nil},
		{"hard link binds at once", []string{"a", "b=a a c=a"}, "a:1 b:0 c=a", nil},
		{"hard link of a hard link", []string{"a b=a c=b", "-a"}, "b:0 c=b", nil},
		{"hard link to nothing", []string{"b=a"}, "", fs.ErrNotExist},
		{"hard link to itself", []string{"a a=a"}, "", layer.ErrHardLink},
		{"hard link to a directory", []string{"d/ a=d"}, "", layer.ErrHardLink},
		{"symlinked parent", []string{"usr/lib/a lib>usr/lib", "lib/a lib/b"}, "lib>usr/lib usr/ usr/lib/ usr/lib/a:1 usr/lib/b:1", nil},
		{"whiteout through a symlink", []string{"usr/lib/a lib>usr/lib", "-lib/a"}, "lib>usr/lib usr/ usr/lib/", nil},
		{"directory over symlink", []string{"d/a l>d", "l/"}, "d/ d/a:0 l/", nil},
		{"absolute symlink", []string{"d/a d/l>/d", "d/l/b"}, "d/ d/a:0 d/b:1 d/l>/d", nil},
		{"symlink climbs", []string{"d/l>../../../e", "d/l/b"}, "d/ d/l>../../../e e/ e/b:1", nil},
		{"dangling symlink", []string{"l>x/y", "l/b"}, "l>x/y x/ x/y/ x/y/b:1", nil},
		{"symlink loop", []string{"a>b b>a", "a/c"}, "", layer.ErrUnsafePath},
		{"the cache of directories forgets", []string{"d/a d>e d/b"}, "d>e e/ e/b:0", nil},
		{"the cache forgets what is removed", []string{"d/a d d/b"}, "d/ d/b:0", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tree, err := apply(test.layers...)
			if !errors.Is(err, test.err) {
				t.Fatalf("error %v, want %v", err, test.err)
			}
			if err != nil {
				if _, ok := errors.AsType[*layer.EntryError](err); !ok {
					t.Errorf("error %T", err)
				}
				return
			}
			if got := list(t, tree); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestVisible(t *testing.T) {
	tree, err := apply("a b c d=c", "a -c", "e=b -b")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	tree.Visible(func(number, index int32) { seen[fmt.Sprintf("%d/%d", number, index)] = true })
	want := map[string]bool{"0/1": true, "0/2": true, "1/0": true}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("visible %v, want %v", seen, want)
	}
}

func TestLookup(t *testing.T) {
	tree, err := apply("usr/bin/dash usr/bin/sh>dash bin>usr/bin loop>loop dangling>x")
	if err != nil {
		t.Fatal(err)
	}
	if i := tree.Lookup("bin/sh"); i == nil || i.Index != 0 {
		t.Errorf("bin/sh is %+v", i)
	}
	for _, path := range []string{"bin/bash", "loop", "dangling", "usr/bin/dash/x"} {
		if i := tree.Lookup(path); i != nil {
			t.Errorf("%s is %+v", path, i)
		}
	}
}

// TestSweepIsLinear repeats a whiteout in a directory that grows: quadratic work would take minutes.
func TestSweepIsLinear(t *testing.T) {
	var layers [2][]layer.Entry
	for i := range 100_000 {
		name := fmt.Sprintf("d/%d", i)
		layers[0] = append(layers[0], layer.Entry{Path: name, Kind: layer.File})
		layers[1] = append(layers[1], layer.Entry{Path: name, Kind: layer.File}, layer.Entry{Path: "d", Kind: layer.Opaque}, layer.Entry{Path: "d", Kind: layer.Whiteout})
	}
	tree := merge.NewTree(0)
	for i, l := range layers {
		if err := tree.Apply(t.Context(), int32(i), layer.ListOf(l...)); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	tree.Visible(func(int32, int32) { n++ })
	if n != 100_000 {
		t.Errorf("%d files", n)
	}
}

// TestLongPaths has a link that makes a path longer each time it is in it.
func TestLongPaths(t *testing.T) {
	deep := strings.TrimSuffix(strings.Repeat("x/", 1000), "/")
	l := entries("l>" + deep + " " + deep + "/l>" + deep + " " + deep + "/" + deep + "/l>" + deep)
	l = append(l, layer.Entry{Path: "l/l/l/f", Kind: layer.File})
	err := merge.NewTree(0).Apply(t.Context(), 0, layer.ListOf(l...))
	if !errors.Is(err, layer.ErrLimit) {
		t.Errorf("error %v, want ErrLimit", err)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := merge.NewTree(0).Apply(ctx, 0, layer.ListOf(entries("a")...)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestCover compares the guess, which knows no symbolic links, with the truth where there are none.
func TestCover(t *testing.T) {
	tests := []struct {
		upper  []string // from the top
		hidden string
		shown  string
	}{
		{nil, "", "a"},
		{[]string{"a"}, "a a/b", "b ab"},
		{[]string{"d/"}, "d", "d/a"},
		{[]string{"d/a/b"}, "d d/a d/a/b", "d/b"},
		{[]string{"-a"}, "a a/b a/b/c", "b"},
		{[]string{"d/!"}, "d/a d/a/b", "d e"},
		{[]string{"./!"}, "a a/b", ""},
		{[]string{"l>x"}, "l l/a", "x x/a"},
		{[]string{"b=a"}, "b", "a"},
		{[]string{"-a", "b=a"}, "b", "a"},
		{[]string{"b=a -a"}, "b", "a"},
		{[]string{"-b -a", "b=a"}, "a b", ""},
		{[]string{"-a", "b=a", "a"}, "a b", ""},
		{[]string{"a", "-b", "c"}, "a b c", "d"},
	}
	for _, test := range tests {
		var c merge.Cover
		for _, l := range test.upper {
			c.Add(layer.ListOf(entries(l)...))
		}
		for path := range strings.FieldsSeq(test.hidden) {
			if !c.Hides(path) {
				t.Errorf("%q does not hide %s", test.upper, path)
			}
		}
		for path := range strings.FieldsSeq(test.shown) {
			if c.Hides(path) {
				t.Errorf("%q hides %s", test.upper, path)
			}
		}
	}
}

func TestAddRootOrder(t *testing.T) {
	tree, err := apply("var>elsewhere .singularity.d tmp")
	if err != nil {
		t.Fatal(err)
	}
	files := []merge.RootFile{
		{Path: ".singularity.d", Mode: fs.ModeDir | 0o755},
		{Path: ".singularity.d/x", Mode: 0o644, Data: []byte("x"), Rule: merge.Overwrite},
		{Path: "var", Mode: fs.ModeDir | 0o755},
		{Path: "var/tmp", Mode: fs.ModeDir | 0o755},
		{Path: "tmp", Mode: fs.ModeDir | 0o755},
	}
	if err := tree.AddRoot(files, 7, "h", nil); err != nil {
		t.Fatal(err)
	}
	want := ".singularity.d/ .singularity.d/x:-1 tmp:0 var>elsewhere"
	if got := list(t, tree); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if !slices.IsSorted(strings.Fields(want)) {
		t.Error("Walk is not in order")
	}
}
