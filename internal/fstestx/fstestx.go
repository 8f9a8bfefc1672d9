package fstestx

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"testing"
	"testing/fstest"

	"hpcimg/internal/testtree"
)

// Options says what not to expect of a file system.
type Options struct {
	Diff *testtree.DiffOptions // what the comparison with the listing ignores
	// Mounted says that fsys is os.DirFS of a mount or directory. Its FileInfo tells neither ownership nor xattrs, so the listing is
	// left to testtree.Walk, and fstest.TestFS is not run: it refuses symlinks that lead nowhere.
	Mounted bool
}

// Test runs the suite over fsys, which must hold exactly what the listing says.
func Test(t *testing.T, fsys fs.FS, want testtree.Listing, o *Options) {
	t.Helper()
	if o == nil {
		o = &Options{}
	}
	if !o.Mounted {
		t.Run("testfs", func(t *testing.T) { testFS(t, fsys, want) })
		t.Run("listing", func(t *testing.T) {
			got, err := testtree.FromFS(fsys)
			if err != nil {
				t.Fatal(err)
			}
			if diff := testtree.Diff(want, got, o.Diff); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
	t.Run("directories", func(t *testing.T) { testDirectories(t, fsys, want) })
	t.Run("readat", func(t *testing.T) { testReadAt(t, fsys, want) })
	t.Run("concurrent", func(t *testing.T) { testConcurrent(t, fsys, want) })
	t.Run("errors", func(t *testing.T) { testErrors(t, fsys, want) })
}

func testFS(t *testing.T, fsys fs.FS, want testtree.Listing) {
	t.Helper()
	var expected []string
	for _, name := range want.Paths() {
		if n := want[name]; name != "." && (n.Mode.IsRegular() || n.Mode.IsDir()) {
			expected = append(expected, name)
		}
	}
	if err := fstest.TestFS(fsys, expected...); err != nil {
		t.Error(err)
	}
}

// entries returns the names that the listing has in each directory.
func entries(l testtree.Listing) map[string][]string {
	dirs := map[string][]string{".": nil}
	for _, name := range l.Paths() {
		if l[name].Mode.IsDir() {
			dirs[name] = slices.Clip(dirs[name]) // an empty one is there too
		}
		if name != "." {
			dirs[path.Dir(name)] = append(dirs[path.Dir(name)], path.Base(name))
		}
	}
	return dirs
}

// testDirectories reads each directory one, three and all entries at a time.
func testDirectories(t *testing.T, fsys fs.FS, want testtree.Listing) {
	t.Helper()
	for dir, names := range entries(want) {
		slices.Sort(names)
		for _, n := range []int{1, 3, -1} {
			got, err := readDir(fsys, dir, n)
			if err != nil {
				t.Errorf("%s, %d at a time: %v", dir, n, err)
				continue
			}
			slices.Sort(got)
			if !slices.Equal(got, names) {
				t.Errorf("%s, %d at a time: %q, want %q", dir, n, got, names)
			}
		}
	}
}

func readDir(fsys fs.FS, dir string, n int) ([]string, error) {
	f, err := fsys.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d, ok := f.(fs.ReadDirFile)
	if !ok {
		return nil, errors.New("no ReadDir")
	}
	var names []string
	for {
		list, err := d.ReadDir(n)
		for _, entry := range list {
			names = append(names, entry.Name())
		}
		if err == io.EOF && n > 0 || err == nil && n <= 0 {
			return names, nil
		}
		if err != nil {
			return names, err
		}
		if len(list) > n && n > 0 {
			return names, errors.New("more entries than asked for")
		}
	}
}

// regular calls f for a limited number of regular files: the largest ones and some others.
func regular(t *testing.T, fsys fs.FS, want testtree.Listing, f func(name string, data []byte)) {
	t.Helper()
	var names []string
	for _, name := range want.Paths() {
		if want[name].Mode.IsRegular() {
			names = append(names, name)
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { return int(want[b].Size - want[a].Size) })
	const most = 50
	for i, name := range names {
		if len(names) > most && i >= most/2 && i%(2*len(names)/most) != 0 {
			continue
		}
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		f(name, data)
	}
}

// testReadAt compares reads at offsets around every power of two, and random ones, with the whole.
func testReadAt(t *testing.T, fsys fs.FS, want testtree.Listing) {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	regular(t, fsys, want, func(name string, data []byte) {
		f, err := fsys.Open(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		defer f.Close()
		r, ok := f.(io.ReaderAt)
		if !ok {
			t.Errorf("%s: the file has no ReadAt", name)
			return
		}
		for _, off := range offsets(int64(len(data)), rng) {
			for _, size := range []int{1, 4096, 131073} {
				checkReadAt(t, name, r, data, off, size)
			}
		}
	})
}

func offsets(size int64, rng *rand.Rand) []int64 {
	list := []int64{0, size - 1, size, size + 1}
	for p := int64(4096); p < size; p *= 2 {
		list = append(list, p-1, p, p+1)
	}
	for range 8 {
		list = append(list, rng.Int64N(size+1))
	}
	return slices.DeleteFunc(list, func(off int64) bool { return off < 0 })
}

func checkReadAt(t *testing.T, name string, r io.ReaderAt, data []byte, off int64, size int) {
	t.Helper()
	buf := make([]byte, size)
	n, err := r.ReadAt(buf, off)
	expected := data[min(off, int64(len(data))):]
	if len(expected) >= size {
		expected = expected[:size]
		if err != nil && err != io.EOF {
			t.Errorf("%s: %d bytes at %d: %v", name, size, off, err)
		}
	} else if err != io.EOF {
		t.Errorf("%s: %d bytes at %d, beyond the end: error %v, want EOF", name, size, off, err)
	}
	if !bytes.Equal(buf[:n], expected) {
		t.Errorf("%s: %d bytes at %d differ from the whole (%d read)", name, size, off, n)
	}
}

// testConcurrent reads some files by many goroutines at once, each with a file of its own.
func testConcurrent(t *testing.T, fsys fs.FS, want testtree.Listing) {
	t.Helper()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			files := 0
			for name, n := range want { // in an order of each goroutine's own
				if !n.Mode.IsRegular() {
					continue
				}
				if files++; files > 200 {
					return
				}
				if data, err := fs.ReadFile(fsys, name); err != nil || int64(len(data)) != n.Size {
					t.Errorf("%s: %d bytes, %v", name, len(data), err)
				}
			}
		})
	}
	wg.Wait()
}

func testErrors(t *testing.T, fsys fs.FS, want testtree.Listing) {
	t.Helper()
	for _, name := range []string{"no-such-file", "no-such-dir/file"} {
		if _, err := fsys.Open(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open %s: %v", name, err)
		}
	}
	for _, name := range []string{"", "/", "..", "a/../b", "./a", "a//b"} {
		var pathError *fs.PathError
		if _, err := fsys.Open(name); !errors.As(err, &pathError) || !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("open %q: %v, want a PathError that is ErrInvalid", name, err)
		}
	}
	f, err := fsys.Open(".")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := f.Read(make([]byte, 10)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("reading a directory: %d, %v", n, err)
	}
	for _, name := range want.Paths() {
		if !want[name].Mode.IsRegular() {
			continue
		}
		if _, err := fsys.Open(name + "/below"); err == nil {
			t.Errorf("open %s/below: no error for a file used as a directory", name)
		}
		break
	}
}
