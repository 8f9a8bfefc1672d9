package elfclosure_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"hpcimg/internal/elfclosure"
)

func TestClosureOfShell(t *testing.T) {
	if runtime.GOOS != "linux" {
		return
	}
	got, err := elfclosure.Closure("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(got, "/bin/sh") || !slices.IsSorted(got) {
		t.Errorf("closure of /bin/sh: %q", got)
	}
	for _, p := range got {
		if _, err := os.Stat(p); err != nil {
			t.Error(err)
		}
	}
	if again, err := elfclosure.Closure("/bin/sh", "/bin/sh"); err != nil || !slices.Equal(got, again) {
		t.Errorf("the same program twice: %q, %v; want %q", again, err, got)
	}
}

func TestClosureOfScript(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	got, err := elfclosure.Closure(script)
	if err != nil || !slices.Equal(got, []string{script}) {
		t.Errorf("got %q, %v; want the script alone", got, err)
	}
}

func TestClosureMissing(t *testing.T) {
	if _, err := elfclosure.Closure("/nonexistent/program"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}
