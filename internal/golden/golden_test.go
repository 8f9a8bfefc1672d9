package golden_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hpcimg/internal/golden"
)

type recorder struct {
	testing.TB
	report string
}

func (r *recorder) Helper()                      {}
func (r *recorder) Errorf(f string, args ...any) { r.report += fmt.Sprintf(f, args...) }
func (r *recorder) Fatalf(f string, args ...any) { r.Errorf(f, args...) }

func TestCheck(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("testdata/plan.txt", []byte("mount a\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, file, got, want string }{
		{"equal", "plan.txt", "mount a\n", ""},
		{"different", "plan.txt", "mount b\n", "-update"},
		{"missing", "other.txt", "", "no such file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &recorder{TB: t}
			if test.name == "missing" && os.PathSeparator != '/' {
				test.want = "other.txt"
			}
			golden.Check(r, test.file, test.got)
			if (test.want == "") != (r.report == "") || !strings.Contains(r.report, test.want) {
				t.Errorf("reported %q, want %q", r.report, test.want)
			}
		})
	}
}

// TestUpdate runs this test binary again with the flag.
func TestUpdate(t *testing.T) {
	if os.Getenv("GOLDEN_CHILD") == "1" {
		golden.Check(t, "new/plan.txt", "mount c\n")
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(exe, "-test.run=^TestUpdate$", "-update")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOLDEN_CHILD=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "testdata", "new", "plan.txt")); err != nil || string(data) != "mount c\n" {
		t.Errorf("wrote %q, %v", data, err)
	}
}
