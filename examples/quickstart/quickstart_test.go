package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hpcimg/internal/oracle"
)

// TestStory runs the program as a person would and reads what it says.
func TestStory(t *testing.T) {
	oracle.UserNS(t)
	t.Setenv("TMPDIR", t.TempDir())
	var out bytes.Buffer
	if err := run(t.Context(), &out, ""); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, want := range []string{
		"layer 2: replaces srv/version.txt",
		"nothing was unpacked on the way",
		"object 4 (FS) is covered: true",
		`srv/version.txt says "2"`,
		"srv/build.log is not there",
		"it says: hello from the image",
		"done in",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the story does not say %q:\n%s", want, &out)
		}
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestKeep leaves the image where it was asked to, and refuses a directory that
// exists.
func TestKeep(t *testing.T) {
	oracle.UserNS(t)
	dir := filepath.Join(t.TempDir(), "kept")
	var out bytes.Buffer
	if err := run(t.Context(), &out, dir); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if info, err := os.Stat(filepath.Join(dir, "quickstart.sif")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("kept image: %v, %v; want an executable file", info, err)
	}
	if err := run(t.Context(), &out, dir); err == nil {
		t.Error("a directory that exists was taken")
	}
}
