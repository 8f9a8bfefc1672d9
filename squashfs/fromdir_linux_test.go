package squashfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

// fromDir returns what an image of a directory of the host has in it.
func fromDir(t *testing.T, dir string) (testtree.Listing, error) {
	t.Helper()
	img := new(memory)
	w, err := squashfs.NewWriter(img, &squashfs.WriterOptions{Compression: squashfs.CompressionLZ4})
	if err != nil {
		t.Fatal(err)
	}
	err = w.FromDir(t.Context(), dir, nil)
	if closeErr := w.Close(); closeErr != nil && err == nil {
		t.Fatal(closeErr)
	}
	if err != nil {
		return nil, err
	}
	r, err := squashfs.NewReader(bytes.NewReader(img.b), int64(len(img.b)), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := testtree.FromFS(r)
	if err != nil {
		t.Fatal(err)
	}
	return got, nil
}

func TestFromDir(t *testing.T) {
	own := testtree.Owner(os.Geteuid(), os.Getegid())
	tree := testtree.Tree{
		testtree.Dir(".", 0o755, own),
		testtree.Dir("many", 0o755, own),
		testtree.File("f", 0o4755, testtree.Text(1, 300<<10), own),
		testtree.Hardlink("many/link", "f"),
		testtree.Symlink("outside", "/etc/passwd", own),
		testtree.Symlink("dangling", strings.Repeat("x", 3000), own),
		testtree.FIFO("fifo", 0o600, own),
	}
	attrs := testtree.File("attrs", 0o644, "", own)
	for i := range 40 { // more than fit into the first buffer
		testtree.Xattr(fmt.Sprintf("user.attribute-%030d", i), fmt.Sprint(i))(&attrs)
	}
	tree = append(tree, attrs)
	for i := range 1500 { // more than one call of the kernel returns
		tree = append(tree, testtree.File(fmt.Sprintf("many/file-with-a-long-name-%d", i), 0o644, fmt.Sprint(i%10), own))
	}
	deep := "deep"
	for range 200 {
		tree = append(tree, testtree.Dir(deep, 0o700, own))
		deep += "/d"
	}
	dir := filepath.Join(t.TempDir(), "src")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	tree.Dir(t, dir)
	t.Chdir(dir) // the name of a socket must be short
	l, err := net.Listen("unix", "socket")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	link := filepath.Join(t.TempDir(), "root")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{dir, ".", link} {
		got, err := fromDir(t, root)
		if err != nil {
			t.Fatal(err)
		}
		if diff := testtree.Diff(tree.Listing(), got, &testtree.DiffOptions{IgnoreMTime: true}); diff != "" {
			t.Errorf("%s (-directory +image)\n%s", root, diff)
		}
	}
}

func TestFromDirErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := fromDir(t, filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "none") {
		t.Errorf("no directory: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := fromDir(t, file); err == nil {
		t.Error("a file as root: no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w, err := squashfs.NewWriter(new(memory), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.FromDir(ctx, dir, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	_ = w.Close()
}

func TestFromDirUnreadable(t *testing.T) {
	oracle.NotRoot(t)
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "d"), 0o755), os.WriteFile(filepath.Join(dir, "d/secret"), nil, 0)); err != nil {
		t.Fatal(err)
	}
	var pe *fs.PathError
	if _, err := fromDir(t, dir); !errors.Is(err, fs.ErrPermission) || !errors.As(err, &pe) || pe.Path != "d/secret" {
		t.Errorf("error %v", err)
	}
}
