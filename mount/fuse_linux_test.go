package mount_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/mount"
	"hpcimg/squashfs"
)

// TestFuse mounts an image at an odd offset in a file, as root, and removes the mount in both ways.
func TestFuse(t *testing.T) {
	oracle.Root(t)
	plain, err := os.ReadFile(writeImage(t, sample(), nil))
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image, with a comma")
	if err := os.WriteFile(image, append(append(make([]byte, 777), plain...), "behind"...), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, end := range []string{"close", "unmount"} {
		dir := t.TempDir()
		s, err := mount.Fuse(t.Context(), image, dir, &mount.FuseOptions{Options: mount.Options{Offset: 777, Size: int64(len(plain))}})
		if err != nil {
			t.Fatal(err)
		}
		settle(t, dir)
		if data, err := os.ReadFile(dir + "/a/noise"); err != nil || string(data) != string(testtree.Bytes(1, 300_001)) {
			t.Errorf("%d bytes, %v", len(data), err)
		}
		if end == "unmount" {
			err = errors.Join(mount.Unmount(dir), s.Wait())
		} else {
			err = s.Close()
		}
		if err := errors.Join(err, s.Wait(), s.Close()); err != nil {
			t.Error(err)
		}
		if mounted(t, dir) {
			t.Errorf("%s: the mount is still there", end)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	}
}

// mounted reports whether anything is mounted at dir.
func mounted(t *testing.T, dir string) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(table), " "+dir+" ")
}

func TestFuseErrors(t *testing.T) {
	image := writeImage(t, sample(), nil)
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, make([]byte, 8192), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := mount.Fuse(t.Context(), junk, dir, nil); !errors.Is(err, squashfs.ErrFormat) {
		t.Errorf("no image: %v", err)
	}
	if _, err := mount.Fuse(t.Context(), image+"x", dir, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	for _, o := range []mount.Options{{Offset: -1}, {Size: 1 << 40}, {Offset: 1 << 40}, {Size: -5}} {
		if _, err := mount.Fuse(t.Context(), image, dir, &mount.FuseOptions{Options: o}); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := mount.Fuse(t.Context(), image, dir, &mount.FuseOptions{Helper: "no-such-helper"}); !errors.Is(err, fs.ErrNotExist) && err == nil {
		t.Errorf("no helper: %v", err)
	}
	if _, err := mount.Fuse(t.Context(), image, dir, &mount.FuseOptions{Helper: oracle.Tool(t, "false")}); err == nil {
		t.Error("a helper that fails: no error")
	}
	if mounted(t, dir) {
		t.Error("something is mounted")
	}
}

// TestServeIdle has a server use no processor time while nobody asks.
func TestServeIdle(t *testing.T) {
	dir, _ := serve(t, mount.NewTree(openImage(t, writeImage(t, sample(), nil)), nil), nil)
	if _, err := os.ReadFile(dir + "/a/big"); err != nil {
		t.Fatal(err)
	}
	best := time.Hour
	for range 5 { // other tests of this process may be running
		before := cpuTime(t)
		time.Sleep(200 * time.Millisecond)
		best = min(best, cpuTime(t)-before)
	}
	if best > 5*time.Millisecond {
		t.Errorf("an idle server takes %v of 200 ms", best)
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
