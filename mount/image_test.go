package mount_test

import (
	"io/fs"
	"maps"
	"slices"
	"testing"

	"hpcimg/internal/testtree"
	"hpcimg/mount"
	"hpcimg/squashfs"
)

// TestOverlaid has an image whose files mean something to overlays, and does not let them.
func TestOverlaid(t *testing.T) {
	image := writeImage(t, testtree.Tree{
		testtree.Dir(".", 0o755, testtree.Xattr("trusted.overlay.opaque", "y"), testtree.Xattr("user.overlay.opaque", "y"), testtree.Xattr("trusted.overlayx", "y")),
		testtree.Char("white", 0o644, 0, 0),
		testtree.Block("block", 0o644, 0, 0),
		testtree.Char("null", 0o644, 1, 3),
		testtree.File("plain", 0o644, ""),
	}, &squashfs.WriterOptions{})
	for _, overlaid := range []bool{false, true} {
		tree := mount.NewTree(openImage(t, image), &mount.TreeOptions{Overlaid: overlaid})
		minors := map[string]uint32{"white": 0, "block": 0, "null": 3, "plain": 0}
		attrs := []string{"trusted.overlay.opaque", "trusted.overlayx", "user.overlay.opaque"}
		if overlaid {
			minors["white"] = 1
			attrs = attrs[1:]
		}
		for name, want := range minors {
			node, err := find(tree, name)
			if err != nil {
				t.Fatal(err)
			}
			if a, err := tree.Attr(node); err != nil || a.Minor != want || a.Major > 1 || name == "white" && a.Mode != fs.ModeDevice|fs.ModeCharDevice|0o644 {
				t.Errorf("overlaid %t: %s: %+v, %v, want %d", overlaid, name, a, err, want)
			}
		}
		set, err := tree.Xattrs(tree.Root())
		if got := slices.Sorted(maps.Keys(set)); err != nil || !slices.Equal(got, attrs) {
			t.Errorf("overlaid %t: %q, %v, want %q", overlaid, got, err, attrs)
		}
	}
}
