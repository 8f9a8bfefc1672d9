package convert_test

import (
	"path/filepath"
	"slices"
	"testing"

	"hpcimg/convert"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

// An image that is made in the directory it is made from does not contain itself.
func TestFromDirIntoItself(t *testing.T) {
	dir := t.TempDir()
	testtree.Tree{testtree.File("data", 0o644, []byte("data"))}.Dir(t, dir)
	dst := filepath.Join(dir, "x.sqfs")
	if _, err := convert.Convert(t.Context(), convert.FromDir(dir), dst, nil); err != nil {
		t.Fatal(err)
	}
	r, err := squashfs.Open(dst, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	entries, err := r.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{"data"}) {
		t.Errorf("the image has %q, want data alone", names)
	}
}
