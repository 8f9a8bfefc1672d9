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
