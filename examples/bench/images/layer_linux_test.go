package images_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"hpcimg/examples/bench/images"
)

// TestChanges changes a tree in each way that a layer can express, and looks for it in the layer.
func TestChanges(t *testing.T) {
	root := t.TempDir()
	do := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	path := func(name string) string { return filepath.Join(root, name) }
	write := func(name, text string) error { return os.WriteFile(path(name), []byte(text), 0o644) }
	do(os.MkdirAll(path("kept/deep"), 0o755), os.MkdirAll(path("gone/deep"), 0o755), os.Mkdir(path("turned"), 0o755))
	do(write("kept/same", "1"), write("kept/changed", "1"), write("kept/gone", "1"), write("gone/deep/file", "1"), write("turned/file", "1"))
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	do(images.Changes(t.Context(), root, tw, func() {
		do(write("kept/changed", "22"), write("kept/new", "333"), os.Link(path("kept/new"), path("kept/new-too")))
		do(os.Remove(path("kept/gone")), os.RemoveAll(path("gone")), os.RemoveAll(path("turned")))
		do(os.Symlink("kept", path("turned")), os.Chmod(path("kept/deep"), 0o700))
	}), tw.Close())

	var got []string
	for tr := tar.NewReader(&b); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		do(err)
		data, err := io.ReadAll(tr)
		do(err)
		got = append(got, string(h.Typeflag)+" "+h.Name+" "+h.Linkname+string(data))
	}
	want := []string{
		"5 kept/ ", "0 kept/changed 22", "5 kept/deep/ ", "0 kept/new 333", "1 kept/new-too kept/new", "2 turned kept",
		"0 .wh.gone ", "0 kept/.wh.gone ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
