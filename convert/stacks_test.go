package convert_test

import (
	"testing"

	"hpcimg/internal/testtree"
)

var (
	dir     = testtree.Dir
	symlink = testtree.Symlink
	link    = testtree.Hardlink
	hide    = testtree.Whiteout
	opaque  = testtree.Opaque
)

func file(path, data string, opts ...testtree.Option) testtree.Entry {
	return testtree.File(path, 0o644, data, opts...)
}

// TestStacks lays hostile but legal layers over one another and compares the result, entry by entry, with what umoci unpacks.
func TestStacks(t *testing.T) {
	big := string(testtree.Text(1, 200_000))
	tests := []struct {
		name   string
		layers []tree
	}{
		{"one layer", []tree{{dir(".", 0o750, testtree.MTime(5)), dir("a", 0o1777), file("a/b", "x", testtree.Owner(1000, 2000))}}},
		{"no layer", nil},
		{"empty layers", []tree{{}, {}, {}}},
		{"file over file", []tree{{file("f", "old"), file("g", "g")}, {file("f", "new")}}},
		{"three versions", []tree{{file("f", big)}, {file("f", big+"2")}, {file("f", big+"3")}}},
		{"file over directory", []tree{{dir("d", 0o700), file("d/a", "a"), file("d/b", "b")}, {file("d", "f")}}},
		{"directory over file", []tree{{file("d", "f")}, {dir("d", 0o700), file("d/a", "a")}}},
		{"directory over directory", []tree{
			{dir("d", 0o700, testtree.Owner(1, 1), testtree.Xattr("user.a", "1")), file("d/a", "a")},
			{dir("d", 0o711, testtree.Owner(2, 2), testtree.Xattr("user.b", "2"), testtree.MTime(77)), file("d/b", "b")},
		}},
		{"directory over symlink", []tree{{dir("d", 0o755), file("d/a", "a"), symlink("l", "d")}, {dir("l", 0o755), file("l/b", "b")}}},
		{"symlink over directory", []tree{{dir("d", 0o755), file("d/a", "a")}, {symlink("d", "e"), dir("e", 0o755)}}},
		{"symlink over file", []tree{{file("f", "f")}, {symlink("f", "g")}}},
		{"everything over a file", []tree{
			{file("a", "a"), file("b", "b"), file("c", "c"), file("d", "d")},
			{testtree.FIFO("a", 0o600), testtree.Char("b", 0o620, 5, 1), testtree.Block("c", 0o660, 8, 1), link("d", "c")},
		}},

		{"whiteout", []tree{{file("a", "a"), file("b", "b")}, {hide("a")}}},
		{"whiteout of a directory", []tree{{dir("d", 0o755), file("d/a", "a"), dir("d/e", 0o755), file("d/e/f", "f")}, {hide("d")}}},
		{"whiteout of nothing", []tree{{file("a", "a")}, {hide("b"), hide("c/d/e"), hide("a/b")}}},
		{"whiteout in the same layer, before", []tree{{file("a", "low")}, {hide("a"), file("a", "high")}}},
		{"whiteout in the same layer, after", []tree{{file("a", "low")}, {file("a", "high"), hide("a")}}},
		{"whiteout of a directory that comes again, before", []tree{
			{dir("d", 0o700), file("d/low", "l")}, {hide("d"), dir("d", 0o755), file("d/high", "h")},
		}},
		{"whiteout of a directory that comes again, after", []tree{
			{dir("d", 0o700), file("d/low", "l"), dir("d/e", 0o755), file("d/e/low", "l")},
			{file("d/high", "h"), file("d/e/high", "h"), hide("d")},
		}},
		{"whiteout and the file again above", []tree{{file("a", "1")}, {hide("a")}, {file("a", "3")}}},
		{"whiteout of a symlink", []tree{{dir("d", 0o755), file("d/a", "a"), symlink("l", "d")}, {hide("l")}}},
		{"whiteout through a symlink", []tree{{dir("d", 0o755), file("d/a", "a"), file("d/b", "b"), symlink("l", "d")}, {hide("l/a")}}},
		{"opaque first", []tree{{dir("d", 0o755), file("d/a", "a")}, {dir("d", 0o755), opaque("d"), file("d/b", "b")}}},
		{"opaque last", []tree{{dir("d", 0o755), file("d/a", "a")}, {dir("d", 0o755), file("d/b", "b"), opaque("d")}}},
		{"opaque without the directory", []tree{{dir("d", 0o711), file("d/a", "a")}, {opaque("d"), opaque("e")}}},
		{"opaque root", []tree{{file("a", "a"), dir("d", 0o755)}, {file("b", "b"), opaque(".")}}},
		{"opaque on a file", []tree{{file("f", "f")}, {opaque("f")}}},
		{"opaque through a symlink", []tree{{dir("d", 0o755), file("d/a", "a"), symlink("l", "d")}, {opaque("l")}}},
		{"opaque twice", []tree{
			{dir("d", 0o755), dir("d/e", 0o755), file("d/e/a", "a")},
			{opaque("d/e"), file("d/e/b", "b"), opaque("d"), opaque("d/e")},
		}},

		{"hard link", []tree{{file("a", big), link("b", "a"), link("c", "b")}}},
		{"hard link to a lower layer", []tree{{file("a", "a")}, {link("b", "a")}}},
		{"hard link to a lower layer, replaced above", []tree{{file("a", "a")}, {link("b", "a")}, {file("a", "new")}}},
		{"hard link survives whiteout of its target", []tree{{file("a", big), link("b", "a")}, {hide("a")}}},
		{"hard link survives replacement of its target", []tree{{file("a", big), link("b", "a")}, {file("a", "new")}}},
		{"hard link to lower, target hidden in the same layer", []tree{{file("a", big)}, {link("b", "a"), hide("a")}}},
		{"hard link to lower, target hidden in the layer above", []tree{{file("a", big)}, {link("b", "a")}, {hide("a")}}},
		{"hard link to lower, link hidden above", []tree{{file("a", big)}, {link("b", "a")}, {hide("a"), hide("b")}}},
		{"hard link binds to what is there at that moment", []tree{{file("a", "old")}, {link("b", "a"), file("a", "new"), link("c", "a")}}},
		{"hard link to a symlink", []tree{{symlink("l", "nowhere"), link("m", "l")}}},
		{"hard link to a device and a fifo", []tree{{testtree.Char("c", 0o666, 1, 3), link("d", "c"), testtree.FIFO("p", 0o600), link("q", "p")}}},
		{"hard link through symlinks", []tree{{dir("d", 0o755), file("d/a", "a"), symlink("l", "/d"), link("l/b", "l/a")}}},
		{"hard link with absolute target", []tree{{file("a", "a"), link("b", "/a"), link("c", "../../a")}}},
		{"hard link replaces a directory", []tree{{dir("d", 0o755), file("d/x", "x"), file("a", "a")}, {link("d", "a")}}},
		{"hard link twice", []tree{{file("a", "a"), link("b", "a"), link("b", "a")}}},

		{"duplicate, last wins", []tree{{file("a", big), file("a", "2"), file("b", "b")}}},
		{"duplicate, file then directory", []tree{{file("a", big), dir("a", 0o755), file("a/b", "b")}}},
		{"duplicate, directory then file", []tree{{dir("a", 0o755), file("a/b", big), file("a", "f")}}},
		{"duplicate directory", []tree{{dir("a", 0o700), file("a/b", "b"), dir("a", 0o755, testtree.Owner(7, 7))}}},
		{"duplicate with a hard link between", []tree{{file("a", big), link("b", "a"), file("a", "2")}}},

		{"missing parents", []tree{{file("a/b/c/d", "d")}}},
		{"missing parents, then the parent", []tree{{file("a/b", "b"), dir("a", 0o700, testtree.Owner(9, 9))}}},
		{"usrmerge", []tree{
			{dir("usr/lib", 0o755), symlink("lib", "usr/lib"), file("usr/lib/a", "old a"), file("usr/lib/b", "old b")},
			{file("lib/a", "new a"), file("lib/c", "c"), hide("lib/b")},
		}},
		{"usrmerge, link behind the files", []tree{
			{file("usr/lib/a", big), file("usr/lib/b", "b"), symlink("lib", "usr/lib")},
			{file("lib/a", "new")},
		}},
		{"usrmerge, absolute link", []tree{{dir("usr/lib", 0o755), symlink("lib", "/usr/lib")}, {file("lib/a", "a")}}},
		{"file by way of a link that vanishes", []tree{
			{dir("usr/lib", 0o755), symlink("lib", "usr/lib"), file("lib/a", big)}, {hide("lib")},
		}},
		{"file by way of a link that becomes a directory", []tree{
			{dir("usr/lib", 0o755), symlink("lib", "usr/lib"), file("lib/a", big)}, {dir("lib", 0o755), file("lib/a", "other")},
		}},
		{"directory becomes a link, then files by way of it", []tree{
			{dir("lib", 0o755), file("lib/a", big), dir("usr/lib", 0o755)},
			{symlink("lib", "usr/lib")},
			{file("lib/a", "a")},
		}},
		{"parent becomes a link in the same layer", []tree{
			{dir("a", 0o755), file("a/x", "1"), dir("b", 0o755), symlink("a", "b"), file("a/x", "2")},
		}},
		{"file before its directory", []tree{{file("a/b", "b"), dir("a", 0o711, testtree.MTime(9))}}},
		{"dangling parent", []tree{{symlink("l", "not/there")}, {file("l/a", "a")}}},
		{"link with dots", []tree{{dir("a/b", 0o755), symlink("a/l", "../../../a/./b/../b")}, {file("a/l/x", "x")}}},
		{"link to the root", []tree{{symlink("l", "/")}, {file("l/x", "x"), dir("l/d", 0o711), hide("l/y")}}},
		{"link to dots only", []tree{{dir("a", 0o755), symlink("a/l", "..")}, {file("a/l/x", "x")}}},
		{"link through a file", []tree{{file("f", "f"), dir("d", 0o755), symlink("l", "f/../d")}, {file("l/x", "x")}}},
		{"whiteout name in the middle", []tree{{file(".wh.a/b", "b"), file("c/.wh.d/e", "e")}}},
		{"long names", []tree{{file(long(255), "x"), file(long(100)+"/"+long(200)+"/"+long(255), "y")}}},
		{"strange names", []tree{{file("a b\n\tc", "x"), file("...", "z"), file("é", "e\u0301")}}},
		{"modes", []tree{{testtree.File("a", 0o6755, "a"), dir("b", 0o3777), testtree.File("c", 0, "c"), dir("e", 0), file("e/f", "f")}}},
		{"xattrs", []tree{{
			testtree.File("ping", 0o755, "x", testtree.Xattr("security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")),
			dir("d", 0o755, testtree.Xattr("user.comment", "hello"), testtree.Xattr("trusted.x", "\x00\xff")),
		}}},
		{"xattrs replaced", []tree{
			{dir("d", 0o755, testtree.Xattr("user.a", "1")), file("f", "1", testtree.Xattr("user.a", "1"))},
			{dir("d", 0o755), file("f", "2", testtree.Xattr("user.b", "2"))},
		}},
		{"device 0:0", []tree{{testtree.Char("w", 0, 0, 0)}}},
		{"large device", []tree{{testtree.Block("b", 0o600, 4095, 1048575)}}},
		{"old and new times", []tree{{file("a", "a", testtree.MTime(0)), file("b", "b", testtree.MTime(4102444800))}}},
		{"same contents", []tree{{file("a", big), file("b", big)}, {file("c", big)}, {hide("a")}}},
		{"zeros", []tree{{testtree.File("z", 0o644, testtree.Zeros(1<<20)), file("e", "")}, {testtree.File("y", 0o644, testtree.Zeros(131072))}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { compareWithUmoci(t, build(t, test.layers...)) })
	}
}

func long(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a' + byte(i%26)
	}
	return string(b)
}

// TestRefusedByBoth has stacks that neither umoci nor we take.
func TestRefusedByBoth(t *testing.T) {
	tests := []struct {
		name   string
		layers []tree
	}{
		{"hard link to nothing", []tree{{link("b", "a")}}},
		{"hard link to itself", []tree{{file("a", "a"), link("a", "a")}}},
		{"hard link to a later entry", []tree{{link("b", "a"), file("a", "a")}}},
		{"hard link to a directory", []tree{{dir("d", 0o755), link("e", "d")}}},
		{"hard link to the root", []tree{{link("e", ".")}}},
		{"hard link to what a layer has hidden", []tree{{file("a", "a")}, {hide("a")}, {link("b", "a")}}},
		{"hard link into what it replaces", []tree{{dir("d", 0o755), file("d/a", "a")}, {link("d", "d/a")}}},
		{"symlink loop", []tree{{symlink("a", "b"), symlink("b", "a"), file("a/c", "c")}}},
		{"whiteout through a loop", []tree{{symlink("a", "a"), hide("a/c")}}},
		{"root as a file", []tree{{file(".", "x")}}},
		{"root as a link", []tree{{symlink(".", "etc")}}},
		{"name too long", []tree{{file(long(256), "x")}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			img := build(t, test.layers...)
			if _, _, err := squash(t, img, nil); err == nil {
				t.Error("convert takes it")
			}
			if _, ok, _ := unpack(t, img); ok {
				t.Error("umoci takes it")
			}
		})
	}
}
