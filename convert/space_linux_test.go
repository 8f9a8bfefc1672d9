package convert_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"hpcimg/convert"
	"hpcimg/image/cache"
	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
)

// small mounts a file system of so many bytes.
func small(t *testing.T, size string) string {
	t.Helper()
	oracle.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestNotEnoughSpace has too little space, so that it shows at the start and in the middle.
func TestNotEnoughSpace(t *testing.T) {
	noise := build(t, tree{testtree.File("noise", 0o644, testtree.Bytes(1, 8<<20))})
	for name, c := range map[string]struct {
		size  string
		early bool
	}{"at the start": {"1m", true}, "in the middle": {"3m", false}} {
		dir := small(t, c.size)
		dst := filepath.Join(dir, "image.sif")
		_, err := convert.Convert(t.Context(), convert.FromImage(noise), dst, nil)
		full, ok := errors.AsType[*convert.SpaceError](err)
		if !ok || !errors.Is(err, convert.ErrSpace) || full.Dir != dir {
			t.Errorf("%s: error %v", name, err)
			continue
		}
		if c.early != (full.Need > 0) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: error %+v", name, full)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
	}
}

// TestNotEnoughSpaceForTar has room for what is compressed only.
func TestNotEnoughSpaceForTar(t *testing.T) {
	img := build(t, tree{testtree.File("zeros", 0o644, make([]byte, 8<<20))})
	dir := small(t, "3m")
	_, err := convert.Convert(t.Context(), convert.FromImage(img), filepath.Join(dir, "image.tar"), nil)
	if full, ok := errors.AsType[*convert.SpaceError](err); !ok || full.Need != 8<<20 {
		t.Errorf("error %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestFullCache has a cache without space: the conversion does without it.
func TestFullCache(t *testing.T) {
	c, err := cache.Open(filepath.Join(small(t, "1m"), "cache"), nil)
	if err != nil {
		t.Fatal(err)
	}
	img := build(t, tree{testtree.File("noise", 0o644, testtree.Bytes(1, 4<<20))})
	want, _ := convertTo(t, img, convert.Options{})
	got, _ := convertTo(t, img, convert.Options{Cache: c})
	if sum(t, got) != sum(t, want) {
		t.Error("other bytes")
	}
}

// TestReflink converts to a file system that shares blocks between files, and has room for the segments once only.
func TestReflink(t *testing.T) {
	oracle.Root(t)
	oracle.Tool(t, "mkfs.xfs")
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 300<<20); err != nil { // the smallest that there is
		t.Fatal(err)
	}
	at := filepath.Join(dir, "at")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "mkfs.xfs", "-q", "-m", "reflink=1", disk)
	oracle.Run(t, "mount", "-o", "loop", disk, at)
	t.Cleanup(func() { oracle.Run(t, "umount", at) })

	c, err := cache.Open(filepath.Join(at, "cache"), nil)
	if err != nil {
		t.Fatal(err)
	}
	img := build(t, tree{testtree.File("noise", 0o644, testtree.Bytes(1, 20<<20))}, tree{file("version", "1")})
	want, _ := convertTo(t, img, convert.Options{})
	var before unix.Statfs_t
	for i := range 12 { // 240 MB and more, of which there is not so much
		dst := filepath.Join(at, string(rune('a'+i))+".sif")
		if _, err := convert.Convert(t.Context(), convert.FromImage(img), dst, &convert.Options{Cache: c}); err != nil {
			t.Fatal(err)
		}
		if sum(t, dst) != sum(t, want) {
			t.Fatal("other bytes")
		}
		if i == 0 {
			if err := unix.Statfs(at, &before); err != nil {
				t.Fatal(err)
			}
		}
	}
	var after unix.Statfs_t
	if err := unix.Statfs(at, &after); err != nil {
		t.Fatal(err)
	}
	if used := int64(before.Bfree-after.Bfree) * before.Bsize; used > 5<<20 {
		t.Errorf("11 copies take %d bytes", used)
	}
}
