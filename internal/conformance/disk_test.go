//go:build linux

package conformance_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
)

// tmpfs mounts an empty file system of so many bytes and returns its root. It is gone when the test ends.
func tmpfs(t *testing.T, size int64) string {
	t.Helper()
	oracle.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+strconv.FormatInt(size, 10)); err != nil {
		oracle.Need(t, oracle.NeedRoot, &os.PathError{Op: "mount", Path: dir, Err: err})
	}
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

// btrfs mounts an empty Btrfs, whose files may share blocks, and returns a directory in it. With a quota, what is below the directory may
// take so many bytes.
func btrfs(t *testing.T, quota int64) string {
	t.Helper()
	oracle.Root(t)
	mkfs, tool, mount := oracle.Tool(t, "mkfs.btrfs"), oracle.Tool(t, "btrfs"), oracle.Tool(t, "mount")
	file, dir := filepath.Join(t.TempDir(), "btrfs"), t.TempDir()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(4 << 30); err != nil { // sparse
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, mkfs, "-q", file)
	if out, err := exec.Command(mount, "-o", "loop", "-t", "btrfs", file, dir).CombinedOutput(); err != nil {
		oracle.Need(t, oracle.NeedRoot, &os.PathError{Op: "mount", Path: string(out), Err: err}) // a kernel without Btrfs
	}
	t.Cleanup(func() { unmount(t, dir) })
	sub := filepath.Join(dir, "sub")
	oracle.Run(t, tool, "subvolume", "create", sub)
	if quota > 0 {
		oracle.Run(t, tool, "quota", "enable", dir)
		oracle.Run(t, tool, "qgroup", "limit", strconv.FormatInt(quota, 10), sub)
	}
	return sub
}

func unmount(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Unmount(dir, 0); err != nil {
		t.Errorf("unmounting: %v", err)
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
}
