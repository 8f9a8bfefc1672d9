package mount_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	"hpcimg/mount"
)

// TestDetached looks into a mount that is at no place, gives it one, and lets another go.
func TestDetached(t *testing.T) {
	t.Parallel()
	oracle.Root(t)
	image, size := imageAt(t, 4096)
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	open := func() *mount.DetachedMount {
		t.Helper()
		m, err := mount.Detached(t.Context(), f, &mount.Options{Offset: 4096, Size: size})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := open()
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(before), image) {
		t.Errorf("it is in the table of mounts: %v", err)
	}
	if data, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/hello", m.File().Fd())); err != nil || string(data) != "world\n" {
		t.Errorf("through the descriptor: %q, %v", data, err)
	}
	target := t.TempDir()
	link := target + "-link"
	if err := errors.Join(os.Symlink(target, link), m.MoveTo(link), m.Close(), os.Remove(link)); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(target + "/hello"); err != nil || string(data) != "world\n" {
		t.Errorf("at its place: %q, %v", data, err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil || st.Flags&(unix.ST_RDONLY|unix.ST_NOSUID|unix.ST_NODEV) != unix.ST_RDONLY|unix.ST_NOSUID|unix.ST_NODEV {
		t.Errorf("flags %#x, %v", st.Flags, err)
	}
	if err := mount.Unmount(target); err != nil {
		t.Error(err)
	}
	if err := open().Close(); err != nil {
		t.Error(err)
	}
	goes(t, image)

	m = open()
	if err := m.MoveTo(target + "/absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no target: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	goes(t, image)
}

// TestDetachedRefused has an image that the kernel refuses: the error has the reason that it gives.
func TestDetachedRefused(t *testing.T) {
	t.Parallel()
	oracle.Root(t)
	data, err := os.ReadFile(writeImage(t, sample(), nil))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		at   int
		to   byte
		says string
	}{
		"magic":   {0, 'x', "SQUASHFS"},
		"version": {28, 9, "Major"},
	} {
		damaged := append([]byte(nil), data...)
		damaged[test.at] = test.to
		file := t.TempDir() + "/image"
		if err := os.WriteFile(file, damaged, 0o644); err != nil {
			t.Fatal(err)
		}
		target := t.TempDir()
		err := mount.Squashfs(t.Context(), file, target, nil)
		if e, ok := errors.AsType[*mount.Error](err); !ok || !errors.Is(err, unix.EINVAL) || len(e.Attempts) != 1 || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil || !strings.Contains(err.Error(), file) && !strings.Contains(err.Error(), target) {
			t.Errorf("%s: %v names no file", name, err)
		}
		goes(t, file)
	}
}
