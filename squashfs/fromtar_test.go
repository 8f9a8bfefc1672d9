package squashfs_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

func fromTar(t testing.TB, archive []byte, opts *squashfs.FromTarOptions) string {
	return create(t, nil, func(ctx context.Context, w *squashfs.Writer) error {
		return w.FromTar(ctx, bytes.NewReader(archive), opts)
	})
}

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

func TestFromTarXattrs(t *testing.T) {
	oracle.Root(t)
	archive := tarOf(t, tar.Header{
		Name: "f", Mode: 0o644, Typeflag: tar.TypeReg, Format: tar.FormatPAX,
		PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability":  capability,
			"SCHILY.xattr.user.both":            "raw",
			"LIBARCHIVE.xattr.user.both":        base64.StdEncoding.EncodeToString([]byte("base64")),
			"LIBARCHIVE.xattr.user.a%3Db":       base64.StdEncoding.EncodeToString([]byte("\x00\x01")),
			"LIBARCHIVE.xattr.user.unpadded":    base64.RawStdEncoding.EncodeToString([]byte("x")),
			"SCHILY.xattr.security.selinux":     "dropped",
			"SCHILY.xattr.system.posix_acl":     "no room",
			"LIBARCHIVE.creationtime":           "1",
			"SCHILY.fflags":                     "nodump",
			"VENDOR.xattr.user.not-an-xattr":    "x",
			"LIBARCHIVE.xattr.security.selinux": "ZHJvcHBlZA",
		},
	})
	image := fromTar(t, archive, &squashfs.FromTarOptions{Skip: func(path, name string) bool {
		return name == "security.selinux"
	}})
	want := testtree.FormatXattrs(map[string]string{
		"security.capability": capability, "user.both": "raw", "user.a=b": "\x00\x01", "user.unpadded": "x",
	})
	if got := mustWalk(t, oracle.KernelMount(t, image))["f"].Xattrs; got != want {
		t.Errorf("xattrs are\n%swant\n%s", got, want)
	}
}

func TestFromTarFormats(t *testing.T) {
	oracle.Root(t)
	gnutar := oracle.Tool(t, "tar")
	src := t.TempDir()
	tree := testtree.Tree{
		testtree.File("dir/file", 0o640, "contents", testtree.Owner(10, 20)),
		testtree.Hardlink("dir/hard", "dir/file"),
		testtree.Symlink("link", "dir/file"),
		testtree.Char("null", 0o666, 1, 3),
		testtree.FIFO("fifo", 0o600),
	}
	tree.Dir(t, src)
	sparse, err := os.Create(filepath.Join(src, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer sparse.Close()
	if _, err := sparse.WriteAt([]byte("end"), 3<<20); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"gnu", "pax"} {
		archive, err := exec.Command(gnutar, "--sparse", "--format="+format, "-C", src, "-c", ".").Output()
		if err != nil {
			t.Fatal(err)
		}
		if len(archive) > 1<<20 {
			t.Fatalf("archive of %d bytes is not sparse", len(archive))
		}
		diffDir(t, mustWalk(t, src), oracle.KernelMount(t, fromTar(t, archive, nil)), nil)
	}
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
