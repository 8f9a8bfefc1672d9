package main

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hpcimg/image/cache"
	"hpcimg/internal/atomicfile"
)

// TestFileChangedWhileFetched: of an OCI-SIF that somebody writes to, nothing is kept that has been made of it, though all of it was good when it was
// read.
func TestFileChangedWhileFetched(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "layers.oci.sif")
	if err := writeOCISIF(path, demoLayers(t)); err != nil {
		t.Fatal(err)
	}
	store, err := cache.Open(filepath.Join(dir, "cache"), nil)
	if err != nil {
		t.Fatal(err)
	}
	f := &flags{quiet: true, std: stdio{in: strings.NewReader(""), out: &bytes.Buffer{}, err: &bytes.Buffer{}}}
	fetch := func(meanwhile func()) (string, error) {
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		unchanged, err := watchFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source, err := f.sifInput(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		meanwhile()
		manifest, ok := source.Manifest()
		if !ok {
			t.Fatal("no manifest")
		}
		return f.fetchedFile(t.Context(), store, source, manifest, unchanged)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fetch(func() {
		time.Sleep(20 * time.Millisecond) // so that times differ on every kernel
		w, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		var first [1]byte
		if _, err := w.ReadAt(first[:], 0); err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteAt(first[:], 0); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
	})
	if err == nil || !strings.Contains(err.Error(), "layers.oci.sif: the file was changed") {
		t.Errorf("a file that changes: %v", err)
	}
	images := filepath.Join(store.Dir(), fetchedDir)
	if got := fileNames(t, images); len(got) != 0 {
		t.Errorf("there is %q", got)
	}
	made, err := fetch(func() {})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{filepath.Base(made)}, fileNames(t, images)); diff != "" {
		t.Error(diff)
	}
}

// TestCleanUnfinished: what conversions have left that were killed goes, and what those have that live stays.
func TestCleanUnfinished(t *testing.T) {
	dir := t.TempDir()
	store, err := cache.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	images, err := fetchedIn(store)
	if err != nil {
		t.Fatal(err)
	}
	mine, err := atomicfile.Mkdir(filepath.Join(images, "sha256-00-1.sif"), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	dead := strings.Replace(mine, "-"+strconv.Itoa(os.Getpid())+"-", "-"+strconv.Itoa(ended.Process.Pid)+"-", 1)
	ours := filepath.Base(mine)
	other := ".sha256-01-1.sif.part-01234567-1-0123456789abcdef"
	write := func(name string, age time.Duration) {
		t.Helper()
		path := filepath.Join(images, name)
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if at := time.Now().Add(-age); os.Chtimes(path, at, at) != nil {
			t.Fatal("no times")
		}
	}
	if err := os.Mkdir(dead, 0o700); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(filepath.Base(dead), "image.sif"), 0)
	write(other, time.Hour)
	write(strings.Replace(other, "-01-", "-02-", 1), 25*time.Hour)
	write(atomicfile.LayerPrefix+"1", time.Hour)
	write(atomicfile.LayerPrefix+"2", 25*time.Hour)
	write(".unknown", 25*time.Hour)
	write("sha256-03-1.sif", time.Minute)
	want := []string{atomicfile.LayerPrefix + "1", ours, other, ".unknown", "sha256-03-1.sif"}
	before := fileNames(t, images)
	for _, dryRun := range []bool{true, false} {
		var result cache.CleanResult
		if err := cleanFetched(store, &cache.CleanOptions{DryRun: dryRun}, &result); err != nil || result.Leftovers != 3 || result.Kept != 1 {
			t.Errorf("dry run %v: %+v, %v", dryRun, result, err)
		}
		expect := want
		if dryRun {
			expect = before
		}
		if diff := cmp.Diff(expect, fileNames(t, images)); diff != "" {
			t.Errorf("dry run %v: %s", dryRun, diff)
		}
	}
}

func fileNames(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := fs.ReadDir(os.DirFS(dir), ".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
