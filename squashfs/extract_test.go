package squashfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

func TestExtract(t *testing.T) {
	dir := sourceDir(t)
	want, err := testtree.Walk(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name    string
		args    string
		workers int
	}{
		{"zstd", "-comp zstd", 0},
		{"serial", "-comp zstd", 1},
		{"many workers", "-comp lz4", 16},
		{"4K", "-comp lz4 -b 4096 -no-fragments", 4},
		{"tail fragments", "-comp zstd -always-use-fragments", 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := openImage(t, mksquashfs(t, dir, strings.Fields(tc.args)...), nil)
			dest := filepath.Join(t.TempDir(), "out")
			res, err := squashfs.ExtractTo(t.Context(), r, dest, &squashfs.ExtractOptions{Workers: tc.workers})
			if err != nil {
				t.Fatal(err)
			}
			if len(res.Skipped) > 0 {
				t.Errorf("skipped %v", res.Skipped)
			}
			got, err := testtree.Walk(dest)
			if err != nil {
				t.Fatal(err)
			}
			if diff := testtree.Diff(want, got, nil); diff != "" {
				t.Errorf("(-source +extracted)\n%s", diff)
			}
			if res.HardLinks != 1 || res.Symlinks != 3 || res.Bytes == 0 {
				t.Errorf("result %+v", res)
			}
		})
	}
}

func TestExtractKeepsHoles(t *testing.T) {
	r := openImage(t, tar2sqfs(t, testtree.Tree{testtree.File("zeros", 0o644, testtree.Zeros(8<<20))}), nil)
	res, err := squashfs.ExtractTo(t.Context(), r, t.TempDir(), nil)
	if err != nil || res.Bytes != 0 || res.Files != 1 {
		t.Errorf("Extract = %+v, %v, want no bytes written", res, err)
	}
}

// Small files that were written in another order than they are read in have
// their fragment blocks read more than once.
func TestExtractScattered(t *testing.T) {
	var tree testtree.Tree
	own := testtree.Owner(os.Geteuid(), os.Getegid())
	for i := range 600 {
		name := fmt.Sprintf("d/%d-%d", i%37, i)
		tree = append(tree, testtree.File(name, 0o644, testtree.Text(uint64(i), 500+i), own))
	}
	tree = append(tree, testtree.Dir("d", 0o755, own), testtree.Dir(".", 0o755, own))
	img := new(memory)
	w, err := squashfs.NewWriter(img, &squashfs.WriterOptions{BlockSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(addTree(tree)(t.Context(), w), w.Close()); err != nil {
		t.Fatal(err)
	}
	r, err := squashfs.NewReader(bytes.NewReader(img.b), int64(len(img.b)), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, workers := range []int{1, 2, 8} {
		dest := t.TempDir()
		if _, err := squashfs.ExtractTo(t.Context(), r, dest, &squashfs.ExtractOptions{Workers: workers}); err != nil {
			t.Fatal(err)
		}
		got, err := testtree.Walk(dest)
		if err != nil {
			t.Fatal(err)
		}
		if diff := testtree.Diff(tree.Listing(), got, nil); diff != "" {
			t.Errorf("%d workers (-image +extracted)\n%s", workers, diff)
		}
	}
}

func TestExtractSource(t *testing.T) {
	r := openImage(t, tar2sqfs(t, readerTreeOf(false, 3)), nil)
	for _, tc := range []struct {
		source string
		want   []string
	}{
		{"usr/bin", []string{".", "big", "block", "noise", "small", "tail"}},
		{"etc/passwd", []string{".", "passwd"}},
		{"bin", []string{".", "bin"}},
		{"usr/hard", []string{".", "hard"}},
		{"empty", []string{"."}},
	} {
		dest := t.TempDir()
		opts := &squashfs.ExtractOptions{Source: tc.source, NoOwner: true}
		if _, err := squashfs.ExtractTo(t.Context(), r, dest, opts); err != nil {
			t.Errorf("%s: %v", tc.source, err)
			continue
		}
		got, err := testtree.Walk(dest)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Join(got.Paths(), " ") != strings.Join(tc.want, " ") {
			t.Errorf("%s: got %v, want %v", tc.source, got.Paths(), tc.want)
		}
	}
	_, err := squashfs.ExtractTo(t.Context(), r, t.TempDir(), &squashfs.ExtractOptions{Source: "no/such"})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Extract(no/such) = %v", err)
	}
}

func TestExtractLimits(t *testing.T) {
	r := openImage(t, tar2sqfs(t, readerTreeOf(false, 3)), nil)
	for _, opts := range []squashfs.ExtractOptions{
		{MaxBytes: 1 << 20, NoOwner: true}, {MaxEntries: 5, NoOwner: true},
	} {
		_, err := squashfs.ExtractTo(t.Context(), r, t.TempDir(), &opts)
		if !errors.Is(err, squashfs.ErrLimit) {
			t.Errorf("%+v: %v", opts, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errFull)
	if _, err := squashfs.ExtractTo(ctx, r, t.TempDir(), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// Nothing that stands in the destination leads out of it, and nothing is
// overwritten.
func TestExtractStaysInside(t *testing.T) {
	r := openImage(t, tar2sqfs(t, testtree.Tree{
		testtree.Dir("dir", 0o755),
		testtree.File("dir/file", 0o644, "new"),
	}), nil)
	outside := t.TempDir()
	for name, plant := range map[string]func(dest string) error{
		"directory": func(dest string) error { return os.Symlink(outside, filepath.Join(dest, "dir")) },
		"file": func(dest string) error {
			return errors.Join(os.Mkdir(filepath.Join(dest, "dir"), 0o755),
				os.Symlink(filepath.Join(outside, "x"), filepath.Join(dest, "dir/file")))
		},
	} {
		dest := t.TempDir()
		if err := plant(dest); err != nil {
			t.Fatal(err)
		}
		if _, err := squashfs.ExtractTo(t.Context(), r, dest, &squashfs.ExtractOptions{NoOwner: true}); err == nil {
			t.Errorf("%s: no error", name)
		}
		if list, err := os.ReadDir(outside); err != nil || len(list) > 0 {
			t.Errorf("%s: outside has %v, %v", name, list, err)
		}
	}
}

// Directories that shut their owner out are still filled and linked from.
func TestExtractClosedDirectories(t *testing.T) {
	uid, gid := oracle.User(t)
	own := testtree.Owner(uid, gid)
	tree := testtree.Tree{
		testtree.Dir(".", 0o755, own),
		testtree.Dir("a", 0o000, own),
		testtree.Dir("a/b", 0o400, own),
		testtree.File("a/b/f", 0o000, "x", own),
		testtree.Dir("z", 0o555, own),
		testtree.Hardlink("z/f", "a/b/f"),
	}
	r := openImage(t, tar2sqfs(t, tree), nil)
	dest := t.TempDir()
	if _, err := squashfs.ExtractTo(t.Context(), r, dest, nil); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filepath.Join(dest, "a"))
	if err != nil || fi.Mode().Perm() != 0 {
		t.Errorf("a: %v, %v", fi, err)
	}
	if err := os.Chmod(filepath.Join(dest, "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	if fi, err = os.Stat(filepath.Join(dest, "a/b")); err != nil || fi.Mode().Perm() != 0o400 {
		t.Errorf("a/b: %v, %v", fi, err)
	}
	if err := os.Chmod(filepath.Join(dest, "a/b"), 0o700); err != nil { // for the clean-up
		t.Fatal(err)
	}
	f1, err1 := os.Stat(filepath.Join(dest, "a/b/f"))
	f2, err2 := os.Stat(filepath.Join(dest, "z/f"))
	if err := errors.Join(err1, err2); err != nil || !os.SameFile(f1, f2) {
		t.Errorf("a/b/f and z/f are not one file: %v", err)
	}
	if err := os.Chmod(filepath.Join(dest, "z"), 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestExtractUnprivileged(t *testing.T) {
	oracle.NotRoot(t)
	r := openImage(t, tar2sqfs(t, readerTreeOf(true, 3)), nil)
	dest := t.TempDir()
	res, err := squashfs.ExtractTo(t.Context(), r, dest, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := res.SkippedCounts[squashfs.SkippedOwner]; n == 0 {
		t.Error("owners were not skipped")
	}
	if n := res.SkippedCounts[squashfs.SkippedDevice]; n != 2 {
		t.Errorf("%d devices skipped, want 2", n)
	}
	if n := res.SkippedCounts[squashfs.SkippedXattr]; n == 0 {
		t.Error("xattrs were not skipped")
	}
	if n := res.SkippedCounts[squashfs.SkippedMode]; n != 1 {
		t.Errorf("%d modes skipped, want 1", n)
	}
	fi, err := os.Stat(filepath.Join(dest, "owned"))
	if err != nil || fi.Mode() != 0o755 {
		t.Errorf("owned: %v, %v, want no setuid", fi.Mode(), err)
	}
}
