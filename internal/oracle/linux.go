//go:build linux

package oracle

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// KernelMount mounts a squashfs image read-only through a loop device and returns the mount point. The mount is gone when
// the test ends. A kernel that refuses the image fails the test.
func KernelMount(t testing.TB, image string) string {
	t.Helper()
	return KernelMountAt(t, image, 0, 0)
}

// KernelMountAt is KernelMount for an image inside a larger file, such as a partition of a SIF file. A size of 0 is the
// rest of the file.
func KernelMountAt(t testing.TB, image string, offset, size int64) string {
	t.Helper()
	dir, err := TryKernelMount(t, image, offset, size)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TryKernelMount is KernelMountAt for an image that the kernel may refuse; err is then its answer.
func TryKernelMount(t testing.TB, image string, offset, size int64) (dir string, err error) {
	t.Helper()
	Root(t)
	mount, umount := Tool(t, "mount"), Tool(t, "umount")
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		Need(t, NeedRoot, err)
	}
	dir = t.TempDir()
	options := fmt.Sprintf("loop,ro,offset=%d", offset)
	if size > 0 {
		options += fmt.Sprintf(",sizelimit=%d", size)
	}
	if _, err := run(mount, "-t", "squashfs", "-o", options, image, dir); err != nil {
		return "", err
	}
	t.Cleanup(func() {
		if _, err := run(umount, dir); err != nil {
			t.Errorf("unmounting: %v", err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir, nil
}

// UserNS skips the test unless an ordinary user may create user namespaces with mounts of its own in them.
func UserNS(t testing.TB) {
	t.Helper()
	out, err := AsUser(t, exec.Command(Tool(t, "unshare"), "--user", "--map-root-user", "--mount", "true")).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	Need(t, NeedUserNS, err)
}

// AsUser makes cmd run with the ids of [User] and no other groups. It returns cmd.
func AsUser(t testing.TB, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	uid, gid := User(t)
	if os.Geteuid() != 0 {
		return cmd
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	return cmd
}

// FUSE returns the path of a FUSE device that the user of [User] can open. Where /dev/fuse is closed to that user, root
// makes a device node for the test, and an ordinary user takes the one that HPCIMG_FUSE names; a mount helper that insists
// on /dev/fuse still fails there.
func FUSE(t testing.TB) string {
	t.Helper()
	device := cmp.Or(os.Getenv("HPCIMG_FUSE"), "/dev/fuse")
	info, err := os.Stat(device)
	Need(t, NeedFUSE, err)
	if info.Mode().Perm()&0o006 == 0o006 {
		return device
	}
	if os.Geteuid() != 0 {
		Need(t, NeedFUSE, unix.Access(device, unix.R_OK|unix.W_OK))
		return device
	}
	node := filepath.Join(UserDir(t), "fuse")
	if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 229))); err != nil {
		Need(t, NeedFUSE, &os.PathError{Op: "mknod", Path: node, Err: err})
	}
	if err := os.Chmod(node, 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(node, os.O_RDWR, 0) // a file system mounted nodev refuses here
	Need(t, NeedFUSE, err)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return node
}
