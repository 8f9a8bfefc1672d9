package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"hpcimg/internal/elfclosure"
)

// programs are what the image takes from this machine when they are there: a
// shell, and enough of coreutils to look around.
var programs = [...]string{"sh", "ls", "cat", "id", "uname", "echo", "wc", "env", "true"}

// epoch is the modification time of all that is put in the image, so that the
// same machine always makes the same image.
func epoch() time.Time { return time.Unix(0, 0) }

// baseLayer returns a tar layer with the programs found on this machine, the
// libraries they need, and two text files that the second layer acts on.
func baseLayer() (layer []byte, found []string, err error) {
	var paths []string
	for _, name := range programs {
		if p, ok := findProgram(name); ok {
			paths = append(paths, p)
			found = append(found, name)
		}
	}
	if !slices.Contains(found, "sh") {
		return nil, nil, fmt.Errorf("this machine has no shell in /bin or /usr/bin to make an image from")
	}
	needed, err := elfclosure.Closure(paths...)
	if err != nil {
		return nil, nil, fmt.Errorf("looking for the libraries that %s need: %w", strings.Join(found, ", "), err)
	}
	t := newLayer()
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "srv"} {
		t.dir(dir)
	}
	for i, p := range paths {
		if err := t.copyFile(p, "bin/"+found[i]); err != nil {
			return nil, nil, err
		}
	}
	for _, p := range needed {
		if slices.Contains(paths, p) {
			continue
		}
		if err := t.copyFile(p, strings.TrimPrefix(p, "/")); err != nil {
			return nil, nil, err
		}
	}
	t.file("srv/version.txt", "1\n")
	t.file("srv/build.log", "what only the build needed\n")
	layer, err = t.close()
	return layer, found, err
}

// patchLayer returns a second layer that replaces one file and removes another.
func patchLayer() ([]byte, error) {
	t := newLayer()
	t.file("srv/version.txt", "2\n")
	t.file("srv/.wh.build.log", "")
	return t.close()
}

func findProgram(name string) (string, bool) {
	for _, dir := range []string{"/bin", "/usr/bin"} {
		p := dir + "/" + name
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return p, true
		}
	}
	return "", false
}

// layerWriter writes an uncompressed tar layer; the first error sticks.
type layerWriter struct {
	buf  bytes.Buffer
	tw   *tar.Writer
	dirs map[string]bool
	err  error
}

func newLayer() *layerWriter {
	t := &layerWriter{dirs: map[string]bool{".": true}}
	t.tw = tar.NewWriter(&t.buf)
	return t
}

func (t *layerWriter) add(h *tar.Header, r io.Reader) {
	if t.err != nil {
		return
	}
	h.ModTime, h.Format = epoch(), tar.FormatPAX
	if t.err = t.tw.WriteHeader(h); t.err == nil && r != nil {
		_, t.err = io.Copy(t.tw, r)
	}
}

func (t *layerWriter) dir(name string) {
	if t.dirs[name] {
		return
	}
	t.dir(path.Dir(name))
	t.dirs[name] = true
	t.add(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}, nil)
}

func (t *layerWriter) file(name, text string) {
	t.dir(path.Dir(name))
	t.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))}, strings.NewReader(text))
}

// copyFile puts the host's file src, with symbolic links followed, at name.
func (t *layerWriter) copyFile(src, name string) error {
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	t.dir(path.Dir(name))
	t.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: info.Size()}, f)
	return t.err
}

func (t *layerWriter) close() ([]byte, error) {
	if t.err == nil {
		t.err = t.tw.Close()
	}
	return t.buf.Bytes(), t.err
}
