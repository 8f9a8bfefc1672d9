package atomicfile_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

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

// TestStale: what killed processes have left goes, and nothing else.
func TestStale(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	for name, create := range creators() {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "a")
			f, err := create(path, nil)
			if err != nil {
				t.Fatal(err)
			}
			// .a.part-HOST-PID-RANDOM
			parts := strings.Split(filepath.Base(f.Name()), "-")
			if err := f.Abort(); err != nil || len(parts) != 4 || parts[2] != strconv.Itoa(os.Getpid()) {
				t.Fatalf("name %s, %v", f.Name(), err)
			}
			dead := strconv.Itoa(gone.Process.Pid)
			part := func(base, host, pid string) string { return base + ".part-" + host + "-" + pid + "-0123" }
			host := parts[1]
			kept := []string{
				part(".a", host, parts[2]), part(".a", host, "1"), part(".a", "00000000", dead), part(".b", host, dead), part(".a", host, "-"+dead),
				part(".a", host, "0"), part("a", host, dead), ".a.part-" + host + "-" + dead, ".a.part-" + host,
			}
			for _, name := range append(kept, part(".a", host, dead)) {
				if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			directory := part(".a", host, dead) + "4"
			if err := os.Mkdir(filepath.Join(dir, directory), 0o700); err != nil {
				t.Fatal(err)
			}
			if f, err = create(path, nil); err != nil {
				t.Fatal(err)
			}
			if err := f.Commit(); err != nil {
				t.Fatal(err)
			}
			want := append(kept, directory, "a")
			slices.Sort(want)
			if got := names(t, dir); got != strings.Join(want, " ") {
				t.Errorf("left %s\nwant %s", got, strings.Join(want, " "))
			}
		})
	}
}

// TestLongName: a name is not cut within a character.
func TestLongName(t *testing.T) {
	f, err := atomicfile.CreateNamed(filepath.Join(t.TempDir(), "x"+strings.Repeat("é", 120)), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abort()
	if !utf8.ValidString(f.Name()) || len(filepath.Base(f.Name())) > 255 {
		t.Errorf("temporary name %q", f.Name())
	}
}
