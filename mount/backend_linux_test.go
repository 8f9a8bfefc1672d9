package mount_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/mount"
)

// TestImage mounts by each backend.
func TestImage(t *testing.T) {
	oracle.Root(t)
	oracle.Tool(t, "squashfuse_ll")
	image := writeImage(t, sample(), nil)
	for _, backend := range []mount.Backend{"", mount.BackendKernel, mount.BackendFUSE, mount.BackendSquashfuse} {
		dir := t.TempDir()
		m, err := mount.Image(t.Context(), image, dir, &mount.ImageOptions{Backend: backend})
		if err != nil {
			t.Errorf("%q: %v", backend, err)
			continue
		}
		if backend == "" && m.Backend != mount.BackendKernel || backend != "" && m.Backend != backend || m.Why == "" {
			t.Errorf("%q: mounted by %s, %q", backend, m.Backend, m.Why)
		}
		settle(t, dir)
		if data, err := os.ReadFile(dir + "/a/noise"); err != nil || string(data) != string(testtree.Bytes(1, 300_001)) {
			t.Errorf("%q: %d bytes, %v", backend, len(data), err)
		}
		if err := mount.Unmount(dir); err != nil {
			t.Errorf("%q: %v", backend, err)
		}
		if m.Server != nil {
			if err := m.Server.Wait(); err != nil {
				t.Error(err)
			}
		}
		if mounted(t, dir) {
			t.Errorf("%q: still mounted", backend)
		}
	}
}

// TestImageUnsound has an image whose tables lie: the kernel does not get it, our server does.
func TestImageUnsound(t *testing.T) {
	image := writeImage(t, sample(), nil)
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	count := []byte{0, 0, 0, 0}
	if _, err := f.ReadAt(count, 4); err != nil {
		t.Fatal(err)
	}
	count[0]++ // one more inode than there are
	if _, err := f.WriteAt(count, 4); err != nil {
		t.Fatal(err)
	}
	f.Close()
	_, err = mount.Image(t.Context(), image, t.TempDir(), &mount.ImageOptions{Backend: mount.BackendKernel})
	if e, ok := errors.AsType[*mount.Error](err); !ok || !errors.Is(err, mount.ErrUnsound) || len(e.Attempts) != 1 {
		t.Fatalf("kernel: %v", err)
	}
	oracle.Root(t)
	dir := t.TempDir()
	m, err := mount.Image(t.Context(), image, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if m.Backend != mount.BackendFUSE || !strings.Contains(m.Why, "not sound") {
		t.Errorf("mounted by %s, %q", m.Backend, m.Why)
	}
	if err := m.Server.Close(); err != nil {
		t.Error(err)
	}
	if _, err = mount.Image(t.Context(), image, dir, &mount.ImageOptions{Backend: mount.BackendKernel, NoCheck: true}); err != nil {
		t.Fatalf("unchecked: %v", err)
	}
	if err := mount.Unmount(dir); err != nil {
		t.Error(err)
	}
}

func TestImageErrors(t *testing.T) {
	image := writeImage(t, sample(), nil)
	dir := t.TempDir()
	if _, err := mount.Image(t.Context(), image, dir, &mount.ImageOptions{Backend: "nonsense"}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("nonsense: %v", err)
	}
	_, err := mount.Image(t.Context(), image, dir, &mount.ImageOptions{Backend: mount.BackendSquashfuse, Squashfuse: "no-such-program"})
	if _, ok := errors.AsType[*mount.Error](err); !ok {
		t.Errorf("no squashfuse: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := mount.Image(ctx, image, dir, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	for target, want := range map[string]error{dir + "/absent": fs.ErrNotExist, image: unix.ENOTDIR} {
		_, err = mount.Image(t.Context(), image, target, nil)
		if e, ok := errors.AsType[*fs.PathError](err); !ok || e.Path != target || !errors.Is(err, want) {
			t.Errorf("%s: %v", target, err)
		}
	}
	if err := mount.Unmount(dir); !errors.Is(err, unix.EINVAL) {
		t.Errorf("unmounting what is no mount: %v", err)
	}
}

// TestUnmountDead removes a mount whose server is gone, while a file in it is open.
func TestUnmountDead(t *testing.T) {
	dir, s := serve(t, mount.NewTree(openImage(t, writeImage(t, sample(), nil)), nil), nil)
	f, err := os.Open(dir + "/a/big")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := mount.Unmount(dir); !errors.Is(err, unix.EBUSY) {
		t.Errorf("in use: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := mount.Unmount(dir); err != nil {
		t.Error(err)
	}
	if mounted(t, dir) {
		t.Error("still mounted")
	}
}

func ExampleImage() {
	_, err := mount.Image(context.Background(), "/no/such/image", "/mnt", nil)
	fmt.Println(err)
	// Output: open /no/such/image: no such file or directory
}

func ExampleFuse() {
	_, err := mount.Fuse(context.Background(), "/dev/null", "/mnt", nil)
	fmt.Println(err)
	// Output: fuse /dev/null: squashfs: superblock at 0x0: 0 bytes: unexpected EOF
}

func ExampleFuseData() {
	fmt.Println(mount.FuseData(5, 1000, 1000))
	// Output: fd=5,rootmode=40000,user_id=1000,group_id=1000,default_permissions,allow_other
}
