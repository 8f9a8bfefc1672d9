package squashfs_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"testing"

	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

func tarOf(t testing.TB, headers ...tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestFromTarErrors(t *testing.T) {
	add := func(archive []byte) error {
		w, err := squashfs.NewWriter(&memory{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = w.FromTar(t.Context(), bytes.NewReader(archive), nil)
		if cerr := w.Close(); err == nil {
			err = cerr
		}
		return err
	}
	file := tar.Header{Name: "f", Mode: 0o644, Typeflag: tar.TypeReg}
	dir := tar.Header{Name: "d/", Mode: 0o755, Typeflag: tar.TypeDir}
	if err := add(tarOf(t, dir, file, dir)); err != nil {
		t.Errorf("a directory twice: %v", err)
	}
	if err := add(tarOf(t, file, file)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file twice: %v", err)
	}
	if err := add(tarOf(t, tar.Header{Name: "../f", Mode: 0o644, Typeflag: tar.TypeReg})); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("way out: %v", err)
	}
	if err := add(tarOf(t, tar.Header{Name: "f", Typeflag: tar.TypeReg, Uid: -1, Format: tar.FormatGNU})); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("negative owner: %v", err)
	}
	if err := add([]byte("not a tar archive, however long one makes this text, not even if it goes on")); err == nil {
		t.Error("garbage is accepted")
	}
	whole := testtree.Tree{testtree.File("f", 0o644, testtree.Text(1, 100<<10))}.Tar(nil)
	if err := add(whole[:50<<10]); err == nil {
		t.Error("half an archive is accepted")
	}
}
