package atomicfile_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hpcimg/internal/atomicfile"
)

func write(t *testing.T, path, data string, opts *atomicfile.Options) error {
	t.Helper()
	f, err := atomicfile.Create(path, opts)
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.WriteString(data); err != nil {
		t.Fatal(err)
	}
	return f.Commit()
}

// creators are Create, and what it is where files must have names.
func creators() map[string]func(string, *atomicfile.Options) (*atomicfile.File, error) {
	return map[string]func(string, *atomicfile.Options) (*atomicfile.File, error){"create": atomicfile.Create, "named": atomicfile.CreateNamed}
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return strings.Join(list, " ")
}

func TestCommitReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	for _, data := range []string{"one", "two"} {
		if err := write(t, path, data, nil); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(path); string(got) != data {
			t.Fatalf("contents %q, want %q", got, data)
		}
	}
	if got := names(t, dir); got != "a" {
		t.Fatalf("directory holds %q", got)
	}
}

func TestMode(t *testing.T) {
	for _, mode := range []fs.FileMode{0, 0o600, 0o755, 0o666} {
		t.Run(fmt.Sprintf("%o", mode), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a")
			if err := write(t, path, "x", &atomicfile.Options{Mode: mode}); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			want := mode
			if want == 0 {
				want = 0o644
			}
			if info.Mode() != want {
				t.Fatalf("mode %o, want %o", info.Mode(), want)
			}
		})
	}
}

func TestAbortLeavesOldFile(t *testing.T) {
	for name, create := range creators() {
		t.Run(name, func(t *testing.T) { testAbort(t, create) })
	}
}

func testAbort(t *testing.T, create func(string, *atomicfile.Options) (*atomicfile.File, error)) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := create(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("new"); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(filepath.Base(f.Name()), ".a.part-") || f.Path() != path {
		t.Fatalf("temporary name %q, path %q", f.Name(), f.Path())
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Abort(); err != nil {
		t.Fatalf("second abort: %v", err)
	}
	if err := f.Commit(); !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("commit after abort: %v", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Fatalf("contents %q", got)
	}
	if got := names(t, dir); got != "a" {
		t.Fatalf("directory holds %q", got)
	}
}

// TestReplace: a file that somebody else has made meanwhile is replaced, in one step, and nothing else is there afterwards.
func TestReplace(t *testing.T) {
	for name, create := range creators() {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "a")
			f, err := create(path, &atomicfile.Options{Mode: 0o640})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Abort()
			if err := write(t, path, "loser", nil); err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString("winner"); err != nil {
				t.Fatal(err)
			}
			if err := f.Commit(); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(path)
			if err != nil || info.Mode() != 0o640 {
				t.Errorf("%v, %v", info, err)
			}
			if got, _ := os.ReadFile(path); string(got) != "winner" || names(t, dir) != "a" {
				t.Errorf("%q in %s", got, names(t, dir))
			}
		})
	}
}

func TestNoReplace(t *testing.T) {
	for name, create := range creators() {
		t.Run(name, func(t *testing.T) { testNoReplace(t, create) })
	}
}

func testNoReplace(t *testing.T, create func(string, *atomicfile.Options) (*atomicfile.File, error)) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	opts := &atomicfile.Options{NoReplace: true}
	first, err := create(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Abort()
	if err := write(t, path, "winner", opts); err != nil {
		t.Fatal(err)
	}
	if err := first.Commit(); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("late commit: %v, want fs.ErrExist", err)
	}
	if _, err := atomicfile.Create(path, opts); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("create over a file: %v, want fs.ErrExist", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "winner" {
		t.Fatalf("contents %q", got)
	}
	if got := names(t, dir); got != "a" {
		t.Fatalf("directory holds %q", got)
	}
}

func TestDestinations(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, path string
		is         error
	}{
		{"directory", filepath.Join(dir, "sub"), nil},
		{"trailing slash", filepath.Join(dir, "none") + "/", nil},
		{"no directory", filepath.Join(dir, "none", "a"), fs.ErrNotExist},
		{"empty", "", fs.ErrInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := atomicfile.Create(tt.path, nil)
			if err == nil {
				f.Abort()
				t.Fatal("no error")
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Fatalf("%v is not %v", err, tt.is)
			}
		})
	}
	long := filepath.Join(dir, strings.Repeat("x", 250))
	if err := write(t, long, "x", nil); err != nil {
		t.Fatalf("long name: %v", err)
	}
}

func TestSymlinkIsReplacedNotFollowed(t *testing.T) {
	dir := t.TempDir()
	victim, link := filepath.Join(dir, "victim"), filepath.Join(dir, "link")
	if err := os.WriteFile(victim, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, link); err != nil {
		t.Fatal(err)
	}
	if err := write(t, link, "new", nil); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(victim); string(got) != "old" {
		t.Fatalf("link was followed: %q", got)
	}
	if info, err := os.Lstat(link); err != nil || !info.Mode().IsRegular() {
		t.Fatalf("link still there: %v %v", info, err)
	}
}
