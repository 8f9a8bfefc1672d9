package export_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"hpcimg/convert/internal/export"
	"hpcimg/internal/testtree"
)

// TestDirAfterKill clears away what a killed process has left, and nothing of what a living one is at.
func TestDirAfterKill(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	r := image(t, testtree.Tree{testtree.File("f", 0o644, "x", owned())})
	parent := t.TempDir()
	name := filepath.Join(parent, "image")
	var ours string
	watch := &export.DirOptions{Workers: 1, Progress: func(int64) { ours = strings.Join(names(t, parent), "/") }}
	if _, err := export.Dir(t.Context(), name, r, watch); err != nil {
		t.Fatal(err)
	}
	// .image.part-HOST-PID-RANDOM
	parts := strings.Split(ours, "-")
	if len(parts) != 4 || parts[2] != strconv.Itoa(os.Getpid()) {
		t.Fatal(ours)
	}
	dead := parts[0] + "-" + parts[1] + "-" + strconv.Itoa(gone.Process.Pid) + "-"
	plant := func(name string) {
		t.Helper()
		testtree.Tree{testtree.Dir("locked", 0o755), testtree.File("locked/f", 0o644, "old")}.Dir(t, filepath.Join(parent, name))
		if err := os.Chmod(filepath.Join(parent, name, "locked"), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{dead + "1", dead + "2.old", ours} {
		plant(n)
	}
	if err := os.WriteFile(filepath.Join(parent, dead+"3"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(name, filepath.Join(parent, dead+"4")); err != nil {
		t.Fatal(err)
	}
	if err := export.CheckDir(name, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("there is one already: %v", err)
	}
	onlyName(t, parent, ours+",image")
	if _, err := os.Lstat(filepath.Join(name, "f")); err != nil {
		t.Error(err)
	}

	// Killed between two renames, where names cannot be swapped: the old directory is all that there is.
	if err := os.RemoveAll(name); err != nil {
		t.Fatal(err)
	}
	plant(dead + "5.old")
	if err := export.CheckDir(name, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the old one is back: %v", err)
	}
	onlyName(t, parent, ours+",image")
	if _, err := export.Dir(t.Context(), name, r, &export.DirOptions{Replace: true}); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(filepath.Join(parent, ours, "locked"), 0o700); err != nil {
		t.Error(err)
	}
}
