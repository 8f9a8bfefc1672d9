//go:build linux

package oracle_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hpcimg/internal/oracle"
)

func squashfsImage(t *testing.T) string {
	t.Helper()
	tree := t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "hello"), []byte("hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image.sqfs")
	oracle.Run(t, "mksquashfs", tree, image, "-quiet", "-no-progress")
	return image
}

func TestKernelMount(t *testing.T) {
	oracle.Root(t)
	image := squashfsImage(t)
	var dir string
	t.Run("mounted", func(t *testing.T) {
		dir = oracle.KernelMount(t, image)
		data, err := os.ReadFile(filepath.Join(dir, "hello"))
		if err != nil || string(data) != "hello\n" {
			t.Errorf("read %q, %v", data, err)
		}
	})
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("%s is still mounted when its test is over (%v)", dir, err)
	}
}

func TestKernelMountAt(t *testing.T) {
	oracle.Root(t)
	data, err := os.ReadFile(squashfsImage(t))
	if err != nil {
		t.Fatal(err)
	}
	const offset = 8192
	padded := filepath.Join(t.TempDir(), "padded")
	if err := os.WriteFile(padded, append(make([]byte, offset), append(data, make([]byte, 4096)...)...), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := oracle.KernelMountAt(t, padded, offset, int64(len(data)))
	if _, err := os.Stat(filepath.Join(dir, "hello")); err != nil {
		t.Error(err)
	}
}

func TestTryKernelMountRefusal(t *testing.T) {
	oracle.Root(t)
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, make([]byte, 8192), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := oracle.TryKernelMount(t, bad, 0, 0); err == nil {
		t.Error("zeros were mounted")
	}
}

func TestAsUser(t *testing.T) {
	dir := oracle.UserDir(t)
	file := filepath.Join(dir, "made")
	if out, err := oracle.AsUser(t, exec.Command("touch", file)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := oracle.AsUser(t, exec.Command("id", "-u")).Output()
	if err != nil || strings.TrimSpace(string(out)) == "0" {
		t.Errorf("uid %s, %v", out, err)
	}
}

func TestUserNS(t *testing.T) { oracle.UserNS(t) }

func TestFUSE(t *testing.T) {
	node := oracle.FUSE(t)
	if out, err := oracle.AsUser(t, exec.Command("sh", "-c", "exec 3<>"+node)).CombinedOutput(); err != nil {
		t.Errorf("the user cannot open %s: %v: %s", node, err, out)
	}
}
