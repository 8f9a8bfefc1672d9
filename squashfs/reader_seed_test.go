package squashfs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
)

// readerTree has every kind of entry and every shape of file: in a fragment,
// of whole blocks, with a tail, with holes, of holes only, empty.
func readerTree(root bool) testtree.Tree { return readerTreeOf(root, 600) }

// readerTreeOf is readerTree with many files in one of its directories, which
// then has an index.
func readerTreeOf(root bool, many int) testtree.Tree {
	sparse := append(testtree.Text(1, 131072), make([]byte, 262144)...)
	sparse = append(sparse, testtree.Bytes(2, 131072)...)
	t := testtree.Tree{
		testtree.Dir(".", 0o755),
		testtree.Dir("etc", 0o755),
		testtree.File("etc/passwd", 0o644, "root:x:0:0::/:/bin/sh\n"),
		testtree.File("etc/empty", 0o600, ""),
		testtree.Dir("empty", 0o711),
		testtree.Dir("usr", 0o755),
		testtree.Dir("usr/bin", 0o755),
		testtree.File("usr/bin/small", 0o755, testtree.Text(3, 3000)),
		testtree.File("usr/bin/block", 0o755, testtree.Text(4, 131072)),
		testtree.File("usr/bin/tail", 0o755, testtree.Text(5, 400000)),
		testtree.File("usr/bin/noise", 0o644, testtree.Bytes(6, 300001)),
		testtree.File("usr/bin/big", 0o644, testtree.Text(13, 3<<20+77)),
		testtree.File("usr/sparse", 0o644, sparse),
		testtree.File("usr/zeros", 0o644, testtree.Zeros(1<<20)),
		testtree.File("usr/zerotail", 0o644, testtree.Zeros(1<<20+5)),
		testtree.Symlink("bin", "usr/bin"),
		testtree.Symlink("usr/abs", "/usr/bin/small"),
		testtree.Symlink("usr/up", "../../../etc/passwd"),
		testtree.Hardlink("usr/hard", "usr/bin/small"),
		testtree.FIFO("fifo", 0o640),
		testtree.Dir("many", 0o755),
	}
	for i := range many {
		t = append(t, testtree.File("many/"+manyName(i), 0o644, testtree.Text(uint64(i), i%40)))
	}
	if root {
		t = append(t,
			testtree.Char("null", 0o666, 1, 3),
			testtree.Block("disk", 0o660, 259, 70000),
			testtree.File("owned", 0o4755, "suid", testtree.Owner(1000, 70000)),
			testtree.File("attrs", 0o644, "x", testtree.Xattr("user.a", "1"), testtree.Xattr("trusted.b", "2\x00\xff"),
				testtree.Xattr("security.c", string(testtree.Bytes(9, 3000)))),
			testtree.File("attrs2", 0o644, "y", testtree.Xattr("security.c", string(testtree.Bytes(9, 3000)))),
			testtree.Dir("attrdir", 0o1777, testtree.Xattr("user.d", "dir")),
		)
	}
	return t
}

func manyName(i int) string {
	const letters = "abcdefghij"
	return "a-rather-long-file-name-" + string([]byte{letters[i/1000%10], letters[i/100%10], letters[i/10%10], letters[i%10]})
}

// sourceDir writes readerTree to a directory.
func sourceDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	readerTree(os.Geteuid() == 0).Dir(t, dir)
	return dir
}

// mksquashfs makes an image of dir with the reference implementation.
func mksquashfs(t testing.TB, dir string, args ...string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image.sqfs")
	if i := slices.Index(args, "-comp"); i < 0 || args[i+1] == "gzip" || args[i+1] == "zstd" {
		args = append(args, "-Xcompression-level", "1") // the defaults are slow
	}
	args = append([]string{dir, image, "-no-progress", "-quiet", "-processors", "1"}, args...)
	oracle.Run(t, "mksquashfs", args...)
	return image
}

// tar2sqfs makes an image of a tar stream with squashfs-tools-ng.
func tar2sqfs(t testing.TB, tree testtree.Tree, args ...string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image.sqfs")
	tarball := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(tarball, tree.Tar(nil), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(tarball)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd := exec.Command(oracle.Tool(t, "tar2sqfs"), append([]string{"-q", "-j", "1", "-f"}, append(args, image)...)...)
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar2sqfs: %v\n%s", err, out)
	}
	return image
}
