package squashfs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"testing"

	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

// TestReadBlock puts a file together from its blocks and its fragment.
func TestReadBlock(t *testing.T) {
	want := append(append(testtree.Text(1, 300_000), testtree.Zeros(700_000)...), testtree.Bytes(2, 5000)...)
	image := filepath.Join(t.TempDir(), "image")
	err := squashfs.Create(t.Context(), image, &squashfs.WriterOptions{BlockSize: 4096}, func(ctx context.Context, w *squashfs.Writer) error {
		return w.FromTar(ctx, bytes.NewReader(testtree.Tree{testtree.File("f", 0o644, want), testtree.File("empty", 0o644, "")}.Tar(nil)), nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	r := openImage(t, image, nil)
	in, err := r.Root().Lookup("f")
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	var blocks [7]squashfs.Block
	buf := make([]byte, r.BlockSize())
	for i := int64(0); ; {
		n, err := in.BlocksAt(blocks[:], i)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || n == 0 {
			t.Fatal(n, err)
		}
		for _, b := range blocks[:n] {
			k, err := r.ReadBlock(buf, b)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, buf[:k]...)
		}
		i += int64(n)
	}
	if f, ok, err := in.Fragment(); err != nil {
		t.Fatal(err)
	} else if ok {
		k, err := r.ReadBlock(buf, f.Block)
		if err != nil || f.Offset+f.Size > k {
			t.Fatal(k, err)
		}
		got = append(got, buf[f.Offset:f.Offset+f.Size]...)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes differ from the file's %d", len(got), len(want))
	}
	if r.HasXattrs() {
		t.Error("the image has extended attributes")
	}
	if _, err := in.BlocksAt(blocks[:], -1); err == nil {
		t.Error("no error for a negative number")
	}
	if _, err := r.Root().BlocksAt(blocks[:], 0); err == nil {
		t.Error("no error for a directory")
	}
}

// TestReadBlockInvalid asks for blocks that no inode gave.
func TestReadBlockInvalid(t *testing.T) {
	r := openImage(t, writeBlockImage(t), nil)
	big := make([]byte, r.BlockSize())
	for name, test := range map[string]struct {
		dst []byte
		b   squashfs.Block
	}{
		"too small":      {big[:10], squashfs.Block{Offset: 96, StoredSize: 10, Size: 11}},
		"fragment":       {big[:10], squashfs.Block{Offset: 96, StoredSize: 10}},
		"negative":       {big, squashfs.Block{Offset: 96, StoredSize: -1, Size: 10}},
		"negative size":  {big, squashfs.Block{Offset: 96, StoredSize: 10, Size: -1}},
		"too long":       {big, squashfs.Block{Offset: 96, StoredSize: r.BlockSize() + 1, Size: 10}},
		"nothing at all": {big, squashfs.Block{}},
	} {
		if _, err := r.ReadBlock(test.dst, test.b); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string]squashfs.Block{
		"beyond the end": {Offset: 1 << 40, StoredSize: 10, Size: 10, Raw: true}, "before the start": {Offset: -5, StoredSize: 10, Size: 10, Raw: true},
		"overflow": {Offset: 1<<63 - 1, StoredSize: 10, Size: 10},
	} {
		if _, err := r.ReadBlock(big, b); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func writeBlockImage(t *testing.T) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	err := squashfs.Create(t.Context(), image, nil, func(ctx context.Context, w *squashfs.Writer) error {
		return w.FromTar(ctx, bytes.NewReader(testtree.Tree{testtree.File("f", 0o644, "f")}.Tar(nil)), nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	return image
}
