package squashfs_test

import (
	"os"
	"path/filepath"
	"testing"

	"hpcimg/internal/oracle"
	"hpcimg/squashfs"
	"hpcimg/squashfs/internal/disk"
)

// Where the kernel refuses an image of the matrix it is because of the one
// thing that is wrong with it: it takes these.
func TestCheckMatrixKernelControl(t *testing.T) {
	oracle.Root(t)
	for _, args := range []string{"", "-noD -comp zstd", "-comp lz4", "-nopad -no-xattrs"} {
		file := filepath.Join(t.TempDir(), "image")
		img := newPatcher(t, matrixTree(), args).img
		img = append(img, make([]byte, -len(img)&(disk.PadSize-1))...)
		if err := os.WriteFile(file, img, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := readTree(os.DirFS(oracle.KernelMount(t, file))); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
	c := newCraft()
	c.setRoot(craftEntry{"a", c.file([]byte("contents")), disk.TypeFile}, craftEntry{"d", c.dir(3), disk.TypeDir})
	img := c.build(t)
	if report := checkImage(t, img, nil); len(report.Findings) > 0 {
		t.Errorf("%+v", report.Findings)
	}
	file := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(file, img, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := readTree(os.DirFS(oracle.KernelMount(t, file))); err != nil {
		t.Errorf("crafted: %v", err)
	}
}

// What CheckRule says of kernels is what the running one does.
func TestCheckMatrixKernel(t *testing.T) {
	oracle.Root(t)
	for _, tc := range matrixCases() {
		switch tc.rule {
		case squashfs.RuleDuplicate, squashfs.RuleXZCheck, squashfs.RuleSymlink4096:
			continue // it gives wrong data without an error, may have no xz, accepts
		}
		t.Run(tc.name, func(t *testing.T) {
			img := tc.make(t)
			file := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(file, img, 0o600); err != nil {
				t.Fatal(err)
			}
			dir, err := oracle.TryKernelMount(t, file, 0, int64(len(img)))
			if err == nil {
				err = readTree(os.DirFS(dir))
			}
			if refuses := tc.rule.RefusedBy()&squashfs.ToolKernel != 0; refuses != (err != nil) {
				t.Errorf("kernel: %v; RefusedBy: %v", err, tc.rule.RefusedBy())
			}
		})
	}
}
