//go:build !linux

package oracle

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
)

// Elsewhere than on Linux there is nothing to mount squashfs with; the tests that ask for it compile and are skipped.

func onlyLinux(what string) error {
	return fmt.Errorf("%s on %s: %w", what, runtime.GOOS, errors.ErrUnsupported)
}

// KernelMount mounts a squashfs image, on Linux.
func KernelMount(t testing.TB, image string) string {
	t.Helper()
	return KernelMountAt(t, image, 0, 0)
}

// KernelMountAt is KernelMount for an image inside a larger file.
func KernelMountAt(t testing.TB, image string, offset, size int64) string {
	t.Helper()
	dir, _ := TryKernelMount(t, image, offset, size)
	return dir
}

// TryKernelMount is KernelMountAt for an image that the kernel may refuse.
func TryKernelMount(t testing.TB, _ string, _, _ int64) (dir string, err error) {
	t.Helper()
	Need(t, NeedRoot, onlyLinux("mounting squashfs"))
	return "", nil
}

// UserNS skips the test: user namespaces are Linux's.
func UserNS(t testing.TB) {
	t.Helper()
	Need(t, NeedUserNS, onlyLinux("user namespaces"))
}

// AsUser returns cmd, which runs as the test's own user.
func AsUser(t testing.TB, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	if os.Geteuid() == 0 {
		Need(t, NeedRoot, onlyLinux("dropping to another user"))
	}
	return cmd
}

// FUSE skips the test.
func FUSE(t testing.TB) string {
	t.Helper()
	Need(t, NeedFUSE, onlyLinux("FUSE"))
	return ""
}
