//go:build no_gpl || hpcimg_gpl

package calebq42_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
	"hpcimg/squashfs/calebq42"
)

func tree() testtree.Tree {
	return testtree.Tree{
		testtree.Dir(".", 0o755),
		testtree.Dir("d", 0o755),
		testtree.File("d/small", 0o600, "contents"),
		testtree.File("d/big", 0o644, testtree.Text(1, 500000)),
		testtree.File("block", 0o644, testtree.Text(2, 131072)),
		testtree.File("noise", 0o644, testtree.Bytes(3, 200000)),
		testtree.File("empty", 0o644, ""),
		testtree.Symlink("link", "d/small"),
		testtree.Symlink("d/abs", "/block"),
	}
}

func image(t *testing.T, tree testtree.Tree, args string) []byte {
	t.Helper()
	dir := t.TempDir()
	tree.Dir(t, dir)
	file := filepath.Join(t.TempDir(), "image")
	oracle.Run(t, "mksquashfs", append([]string{dir, file, "-quiet", "-no-progress"}, strings.Fields(args)...)...)
	img, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// Both readers give the same tree.
func TestAgreesWithOurs(t *testing.T) {
	for _, args := range []string{"-comp gzip -Xcompression-level 1", "-comp zstd -Xcompression-level 1", "-comp xz"} {
		img := image(t, tree(), args)
		theirs, err := calebq42.NewFS(bytes.NewReader(img))
		if err != nil {
			t.Fatal(err)
		}
		if err := fstest.TestFS(theirs, "d/big", "empty"); err != nil {
			t.Error(err)
		}
		ours, err := squashfs.NewReader(bytes.NewReader(img), int64(len(img)), nil)
		if err != nil {
			t.Fatal(err)
		}
		want, err := testtree.FromFS(ours)
		if err != nil {
			t.Fatal(err)
		}
		got, err := testtree.FromFS(theirs)
		if err != nil {
			t.Fatal(err)
		}
		diff := testtree.Diff(want, got, &testtree.DiffOptions{IgnoreOwner: true, IgnoreLinks: true, IgnoreXattrs: []string{""}})
		if diff != "" {
			t.Errorf("%s (-ours +theirs)\n%s", args, diff)
		}
	}
}

func TestOldCompressors(t *testing.T) {
	for _, comp := range []string{"lzo", "lzma"} {
		t.Run(comp, func(t *testing.T) {
			img := image(t, tree(), "-comp "+comp)
			_, err := squashfs.NewReader(bytes.NewReader(img), int64(len(img)), nil)
			if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), comp) {
				t.Errorf("squashfs.NewReader = %v", err)
			}
			fsys, err := calebq42.NewFS(bytes.NewReader(img))
			if errors.Is(err, errors.ErrUnsupported) {
				return // built with no_gpl
			}
			if err != nil {
				t.Fatal(err)
			}
			data, err := fs.ReadFile(fsys, "d/abs")
			if err != nil || !bytes.Equal(data, testtree.Text(2, 131072)) {
				t.Errorf("ReadFile = %d bytes, %v", len(data), err)
			}
		})
	}
}

// The module's known faults show as errors, not as wrong data.
func TestKnownFaults(t *testing.T) {
	sparse := testtree.Tree{testtree.File("zeros", 0o644, testtree.Zeros(1<<20))}
	fsys, err := calebq42.NewFS(bytes.NewReader(image(t, sparse, "-comp zstd")))
	if err != nil {
		t.Fatal(err)
	}
	f, err := fsys.Open("zeros")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, ok := f.(io.WriterTo); ok {
		t.Error("file has a WriteTo")
	}
	if data, err := io.ReadAll(f); len(data) != 1<<20 && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read %d bytes, %v", len(data), err)
	}
	if _, err := calebq42.NewFS(strings.NewReader("hsqs")); err == nil {
		t.Error("a magic alone is an image")
	}
}
