package images_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"hpcimg/examples/bench/images"
)

func TestNames(t *testing.T) {
	if names := images.Names(); len(names) == 0 || names[0] != "base" {
		t.Errorf("names: %q", names)
	}
	if slices.Contains(images.Versions(), images.Rebuilt) {
		t.Error("the rebuilt image is among the versions")
	}
	if _, err := images.Make(t.Context(), t.TempDir(), "erofs", io.Discard); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("an unknown image: %v", err)
	}
}

// TestLater: a rebuilt layer has the same files, a day later.
func TestLater(t *testing.T) {
	headers := []tar.Header{
		{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "d/f", Mode: 0o4755, Uid: 3, Size: 5, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}},
		{Typeflag: tar.TypeLink, Name: "d/g", Linkname: "d/f", Mode: 0o4755},
		{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "d/f", Mode: 0o777},
	}
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	tw := tar.NewWriter(zw)
	built := time.Unix(1_700_000_000, 0)
	for _, h := range headers {
		h.ModTime = built
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, "hello"[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	in, out := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(in, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := images.Later(t.Context(), in, out); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	tr := tar.NewReader(zr)
	for _, want := range headers {
		got, err := tr.Next()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if got.Name != want.Name || got.Linkname != want.Linkname || got.Mode != want.Mode || got.Uid != want.Uid ||
			got.PAXRecords["SCHILY.xattr.user.a"] != want.PAXRecords["SCHILY.xattr.user.a"] || string(data) != "hello"[:want.Size] {
			t.Errorf("got %+v with %q, want %+v", got, data, want)
		}
		if !got.ModTime.Equal(built.Add(24 * time.Hour)) {
			t.Errorf("%s is of %v", got.Name, got.ModTime)
		}
	}
	if _, err := tr.Next(); err != io.EOF {
		t.Errorf("after the last: %v", err)
	}
}
