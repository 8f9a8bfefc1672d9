package mount_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/mount"
)

// TestAdmit has every backend ask first, and mount the file that was asked about, whatever is at its path by then.
func TestAdmit(t *testing.T) {
	oracle.Root(t)
	oracle.Tool(t, "squashfuse_ll")
	refused := errors.New("refused")
	for _, backend := range []mount.Backend{mount.BackendKernel, mount.BackendFUSE, mount.BackendSquashfuse} {
		t.Run(string(backend), func(t *testing.T) {
			image := writeImage(t, sample(), nil)
			dir := t.TempDir()
			o := &mount.ImageOptions{Backend: backend}
			o.Admit = func(context.Context, *os.File, int64, int64) error { return refused }
			if _, err := mount.Image(t.Context(), image, dir, o); !errors.Is(err, refused) || mounted(t, dir) {
				t.Fatalf("refused: %v", err)
			}
			asked := 0
			o.Admit = func(_ context.Context, f *os.File, offset, size int64) error {
				asked++
				info, err := f.Stat()
				if err != nil || offset != 0 || size != info.Size() {
					t.Errorf("asked about %d bytes at %d, %v", size, offset, err)
				}
				evil := filepath.Join(filepath.Dir(image), "evil")
				if err := os.WriteFile(evil, make([]byte, info.Size()), 0o600); err != nil {
					return err
				}
				return os.Rename(evil, image)
			}
			m, err := mount.Image(t.Context(), image, dir, o)
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(dir + "/a/noise")
			if err != nil || string(data) != string(testtree.Bytes(1, 300_001)) || asked != 1 {
				t.Errorf("%d bytes, %v, asked %d times", len(data), err, asked)
			}
			if err := mount.Unmount(dir); err != nil {
				t.Error(err)
			}
			if m.Server != nil {
				if err := m.Server.Wait(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
