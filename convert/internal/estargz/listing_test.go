package estargz_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hpcimg/image"
	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
)

// sparseSeeds returns archives with a sparse file in all formats that there are, if there is a tar(1) to make them.
func sparseSeeds(tb testing.TB) map[string][]byte {
	tb.Helper()
	program, err := exec.LookPath("tar")
	if err != nil {
		return nil
	}
	return makeSparse(tb, program)
}

func makeSparse(tb testing.TB, program string) map[string][]byte {
	tb.Helper()
	dir := tb.TempDir()
	f, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		tb.Fatal(err)
	}
	for i := range int64(5) {
		if _, err := f.WriteAt([]byte("data"), i*100_000); err != nil {
			tb.Fatal(err)
		}
	}
	if err := errorOr(f.Truncate(600_000), f.Close(), os.WriteFile(filepath.Join(dir, "z"), []byte("z"), 0o644)); err != nil {
		tb.Fatal(err)
	}
	archives := make(map[string][]byte)
	for name, args := range map[string][]string{
		"gnu": {"--format=gnu"}, "0.0": {"--format=posix", "--sparse-version=0.0"},
		"0.1": {"--format=posix", "--sparse-version=0.1"}, "1.0": {"--format=posix", "--sparse-version=1.0"},
	} {
		args = append(args, "--sparse", "-C", dir, "-cf", "-", "sparse", "z")
		out, err := exec.CommandContext(tb.Context(), program, args...).Output()
		if err != nil {
			tb.Fatal(name, err)
		}
		archives[name] = out
	}
	return archives
}

// TestSparse wants sparse files with the contents that they have when they are extracted.
func TestSparse(t *testing.T) {
	program := oracle.Tool(t, "tar")
	for name, archive := range makeSparse(t, program) {
		if len(archive) > 100_000 {
			t.Errorf("%s: %d bytes: not sparse", name, len(archive))
		}
		blob, res := mustWrite(t, archive, nil)
		got := check(t, blob, res)
		want := readTar(t, bytes.NewReader(archive))
		if len(got) != 2 || got[0].Data != want[0].Data || got[0].Header.Size != 600_000 || got[0].Header.Name != "sparse" {
			t.Errorf("%s: %d entries", name, len(got))
		}
		sameListing(t, program, archive, blob)
	}
}

// TestListing compares what tar(1) sees.
func TestListing(t *testing.T) {
	program := oracle.Tool(t, "tar")
	sameListing(t, program, everything(), first(mustWrite(t, everything(), nil)))
	// What tar(1) itself makes, in all its formats.
	dir := t.TempDir()
	deep := filepath.Join(dir, strings.Repeat("directory/", 12), strings.Repeat("name", 30))
	if err := errorOr(os.MkdirAll(filepath.Dir(deep), 0o750), os.WriteFile(deep, []byte("far"), 0o4755),
		os.Symlink(strings.Repeat("target/", 30), filepath.Join(dir, "symlink")), os.Link(deep, filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"gnu", "oldgnu", "posix", "ustar", "v7"} {
		args := []string{"--format=" + format, "--numeric-owner", "-C", dir, "-cf", "-", "."}
		if format == "v7" {
			args[len(args)-1] = "symlink"
			if err := errorOr(os.Remove(filepath.Join(dir, "symlink")), os.Symlink("short", filepath.Join(dir, "symlink"))); err != nil {
				t.Fatal(err)
			}
		}
		if format == "ustar" {
			args = append([]string{"--exclude=*name", "--exclude=symlink", "--exclude=link"}, args...)
		}
		archive, err := exec.CommandContext(t.Context(), program, args...).Output()
		if err != nil {
			t.Fatal(format, err)
		}
		blob, res := mustWrite(t, archive, nil)
		check(t, blob, res)
		sameListing(t, program, archive, blob)
	}
}

func first[A, B any](a A, _ B) A { return a }

func sameListing(t *testing.T, program string, archive, blob []byte) {
	t.Helper()
	list := func(data []byte, args ...string) string {
		cmd := exec.CommandContext(t.Context(), program, append(args, "--full-time", "-tvf", "-")...)
		cmd.Stdin = bytes.NewReader(data)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var kept []string
		for line := range strings.Lines(string(out)) {
			if !strings.HasSuffix(line, ".landmark\n") && !strings.HasSuffix(line, "stargz.index.json\n") {
				kept = append(kept, line)
			}
		}
		return strings.Join(kept, "")
	}
	if diff := cmp.Diff(list(archive), list(blob, "-z")); diff != "" {
		t.Errorf("tar -tv (-input +blob):\n%s", diff)
	}
}

// TestUmoci compares what umoci makes of a layer and of its blob.
func TestUmoci(t *testing.T) {
	umoci := oracle.Tool(t, "umoci")
	oracle.Root(t)
	archive := everything()
	blob, _ := mustWrite(t, archive, nil)
	unpack := func(in image.LayerInput) testtree.Listing {
		img, err := image.Build(image.Config{}, in)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if _, err := image.WriteLayout(t.Context(), filepath.Join(dir, "layout"), img, "t"); err != nil {
			t.Fatal(err)
		}
		rootfs := filepath.Join(dir, "rootfs")
		out, err := exec.CommandContext(t.Context(), umoci, "raw", "unpack", "--image", filepath.Join(dir, "layout")+":t", rootfs).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		list, err := testtree.Walk(rootfs)
		if err != nil {
			t.Fatal(err)
		}
		for p, n := range list {
			if n.Mode.IsDir() {
				n.ModTime = 0 // of those without an entry it is now
				list[p] = n
			}
		}
		return list
	}
	want := unpack(image.LayerInput{Tar: archive})
	got := unpack(image.LayerInput{Blob: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob)), nil }})
	for _, own := range []string{".no.prefetch.landmark", "stargz.index.json"} {
		if _, ok := got[own]; !ok {
			t.Errorf("no %s", own)
		}
		delete(got, own)
	}
	if diff := testtree.Diff(want, got, nil); diff != "" {
		t.Errorf("(-tar +blob)\n%s", diff)
	}
}
