//go:build linux

package conformance_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
)

// built is the command line, built once for all tests.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// commandLine returns the path of the command line's program. Every user can run it.
func commandLine(t testing.TB) string {
	t.Helper()
	oracle.Once(t) // the ordinary user of the suite's second run has no module cache to build from
	oracle.Tool(t, "go")
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "hpcimg-cli-"); built.err != nil {
			return
		}
		if built.err = os.Chmod(built.dir, 0o755); built.err != nil {
			return
		}
		out, err := exec.Command("go", "build", "-o", filepath.Join(built.dir, "hpcimg"), "hpcimg/examples/hpcimg").CombinedOutput()
		if err != nil {
			built.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "hpcimg")
}

// subject is an image that takes a few tenths of a second to convert, and what comes of it.
type subject struct {
	layout string
	size   int64  // of the SIF
	sum    string // of the SIF that the command line makes

	leftovers int
}

func (s *subject) reference() string { return "oci:" + s.layout + ":v1" }

// source opens the image for package convert.
func (s *subject) source(t testing.TB) *convert.Source {
	t.Helper()
	return convert.FromImage(openImage(t, s.layout, "v1"))
}

// makeSubject makes an image of three layers, of which the upper ones hide parts of those below. Everybody can read it.
func makeSubject(t testing.TB) *subject { return makeSubjectOf(t, 40) }

// makeSubjectOf makes one with so many files of three kinds in each layer, which are 185 KB together.
func makeSubjectOf(t testing.TB, files uint64) *subject {
	t.Helper()
	dir := oracle.UserDir(t)
	s := &subject{layout: filepath.Join(dir, "layout")}
	var layers []image.LayerInput
	for n := range uint64(3) {
		tree := testtree.Tree{testtree.Dir("usr", 0o755), testtree.Dir(fmt.Sprintf("usr/%d", n), 0o755)}
		for i := range files {
			seed := n*100 + i
			tree = append(tree,
				testtree.File(fmt.Sprintf("usr/%d/text-%d", n, i), 0o644, testtree.Text(seed, 150_000)),
				testtree.File(fmt.Sprintf("usr/%d/small-%d", n, i), 0o755, testtree.Text(seed, 5_000), testtree.Owner(int(i), 0)),
				testtree.File(fmt.Sprintf("usr/%d/data-%d", n, i), 0o600, testtree.Bytes(seed, 30_000)))
			if n > 0 && i%4 == 0 {
				tree = append(tree, testtree.Whiteout(fmt.Sprintf("usr/%d/text-%d", n-1, i)))
			}
		}
		layers = append(layers, image.LayerInput{Tar: tree.Tar(nil)})
	}
	img, err := image.Build(image.Config{}, layers...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := image.WriteLayout(t.Context(), s.layout, img, "v1"); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "reference.sif")
	if text, err := exec.Command(commandLine(t), "convert", "-q", "--no-cache", s.reference(), out).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	s.sum = sumFile(t, out)
	info, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	s.size = info.Size()
	return s
}

// run runs the command line and fails the test when it fails.
func (s *subject) run(t testing.TB, args ...string) (stdout []byte) {
	t.Helper()
	var out, problem bytes.Buffer
	cmd := exec.Command(commandLine(t), args...)
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		t.Fatalf("hpcimg %v: %v: %s", args, err, problem.String())
	}
	return out.Bytes()
}

// onlyFiles is onlyFiles, but counts files that have their temporary name: replacing a file takes one for a moment, between two system calls.
func (s *subject) onlyFiles(t testing.TB, dir string, names ...string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, ".*.part-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range found {
		s.leftovers++
		s.check(t, name)
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	onlyFiles(t, dir, names...)
}

// check makes sure that a file is the whole result.
func (s *subject) check(t testing.TB, name string) {
	t.Helper()
	if got := sumFile(t, name); got != s.sum {
		t.Errorf("%s: not the bytes of an undisturbed conversion", filepath.Base(name))
	}
}
