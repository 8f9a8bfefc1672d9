package runtime_test

import (
	"bytes"
	"context"
	"debug/elf"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hpcimg/internal/oracle"
	"hpcimg/mount"
	hpcrun "hpcimg/runtime"
	"hpcimg/squashfs"
)

// watched is a tree that notes which files are read, and how far they are.
type watched struct {
	mount.Tree
	read map[mount.NodeID]int64
}

func (w *watched) ReadAt(node mount.NodeID, p []byte, off int64) (int, error) {
	w.read[node] = max(w.read[node], off+1)
	return w.Tree.ReadAt(node, p, off)
}

// preloadOf returns the names of what is read of an image before a program is executed, and how far.
func preloadOf(t *testing.T, r *squashfs.Reader, program string) map[string]int64 {
	t.Helper()
	w := &watched{Tree: mount.NewTree(r, nil), read: make(map[mount.NodeID]int64)}
	hpcrun.Preload(w, r, program)
	read := make(map[string]int64)
	for node, end := range w.read {
		in, err := r.Inode(squashfs.InodeRef(node))
		mustAll(t, err)
		read[nameOf(t, r, in.Ref())] = end
	}
	return read
}

func nameOf(t *testing.T, r *squashfs.Reader, ref squashfs.InodeRef) (name string) {
	t.Helper()
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := r.ReadDir(dir)
		mustAll(t, err)
		for _, e := range entries {
			at := filepath.Join(dir, e.Name())
			info, err := r.Lstat(at)
			mustAll(t, err)
			if in := info.Sys().(*squashfs.Inode); in.Ref() == ref {
				name = at
			}
			if e.IsDir() {
				walk(at)
			}
		}
	}
	walk(".")
	return name
}

// TestPreload reads, of the image of the tests, all that executing a program takes.
func TestPreload(t *testing.T) {
	t.Parallel()
	r, err := squashfs.Open(imageFile(), nil)
	mustAll(t, err)
	defer r.Close()
	path, err := exec.LookPath("cat")
	mustAll(t, err)
	file, err := elf.Open(path)
	mustAll(t, err)
	defer file.Close()
	libraries, err := file.ImportedLibraries()
	mustAll(t, err)
	read := preloadOf(t, r, "/bin/cat")
	for _, lib := range append(libraries, "cat") {
		if !slices.ContainsFunc(slices.Collect(mapKeys(read)), func(name string) bool {
			info, err := r.Stat(name)
			return err == nil && filepath.Base(name) == lib && read[name] > (info.Size()-1)/int64(r.BlockSize())*int64(r.BlockSize())
		}) {
			t.Errorf("%s is not read to its end: %v", lib, read)
		}
	}
	if len(read) != len(libraries)+2 { // with the interpreter
		t.Errorf("read %v", read)
	}
	for name, want := range map[string]int{"/opt/text": 1, "/opt/script": 1, "/opt": 0, "/no/such": 0, "/opt/up": 0, "/etc": 0} {
		if read := preloadOf(t, r, name); len(read) != want {
			t.Errorf("%s: read %v", name, read)
		}
	}
}

func mapKeys(m map[string]int64) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// TestPreloadLies has programs that say what no program says.
func TestPreloadLies(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	self, err := os.ReadFile("/proc/self/exe")
	mustAll(t, err)
	for name, data := range map[string][]byte{
		"loop": []byte("#!/loop\n"), "other": []byte("#!/loop\n"), "long": append([]byte("#!/"), bytes.Repeat([]byte("x"), 10000)...), "empty": nil, "no": []byte("#! \n"),
		"relative": []byte("#!loop\n"), "header": self[:64], "large": self, "magic": []byte("\x7fELF"),
	} {
		mustAll(t, os.WriteFile(filepath.Join(root, name), data, 0o755))
	}
	image := filepath.Join(t.TempDir(), "image")
	mustAll(t, squashfs.Create(t.Context(), image, nil, func(ctx context.Context, w *squashfs.Writer) error { return w.FromDir(ctx, root, nil) }))
	r, err := squashfs.Open(image, nil)
	mustAll(t, err)
	defer r.Close()
	for _, name := range []string{"loop", "other", "long", "empty", "no", "relative", "header", "large", "magic"} {
		read := preloadOf(t, r, "/"+name)
		if len(read) > 2 || len(read) == 0 {
			t.Errorf("%s: read %v", name, read)
		}
	}
}

// TestNeeds compares what programs need with what debug/elf says.
func TestNeeds(t *testing.T) {
	t.Parallel()
	for _, name := range append(programs, "bash", "git") {
		path, err := exec.LookPath(name)
		if name == "git" || name == "bash" {
			oracle.Need(t, oracle.NeedTools, err)
		}
		mustAll(t, err)
		data, err := os.ReadFile(path)
		mustAll(t, err)
		file, err := elf.NewFile(bytes.NewReader(data))
		mustAll(t, err)
		want, err := file.ImportedLibraries()
		mustAll(t, err)
		interpreter, got, ok := hpcrun.NeedsOf(bytes.NewReader(data))
		if !ok || !slices.Equal(got, want) || !strings.HasPrefix(interpreter, "/lib") {
			t.Errorf("%s: %s, %q, %t, want %q", name, interpreter, got, ok, want)
		}
	}
}

// counted counts what is read.
type counted struct {
	io.ReaderAt
	bytes int
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	c.bytes += len(p)
	return c.ReaderAt.ReadAt(p, off)
}

// FuzzNeeds: whatever a file says, little of it is read, and little of that is believed.
func FuzzNeeds(f *testing.F) {
	path, err := exec.LookPath("true")
	if err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:1000])
	f.Add([]byte("\x7fELF\x02\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &counted{ReaderAt: bytes.NewReader(data)}
		interpreter, libraries, ok := hpcrun.NeedsOf(r)
		if r.bytes > 64<<10 || len(libraries) > 64 || len(interpreter) > 256 {
			t.Errorf("%d bytes read for %d libraries", r.bytes, len(libraries))
		}
		for _, name := range append(libraries, interpreter) {
			if len(name) > 256 || !bytes.Contains(data, []byte(name)) || name != "" && !ok {
				t.Errorf("%q is not in the file", name)
			}
		}
	})
}
