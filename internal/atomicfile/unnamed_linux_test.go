package atomicfile_test

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"hpcimg/internal/atomicfile"
	"hpcimg/internal/oracle"
)

// TestNothingToLeaveBehind: as long as a file is being written there is no name that a killed process could leave.
func TestNothingToLeaveBehind(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	oracle.Need(t, oracle.NeedFS, err)
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	f, err := atomicfile.Create(filepath.Join(dir, "a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abort()
	if _, err := f.WriteString("half"); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); got != "" {
		t.Errorf("directory holds %q", got)
	}
}
