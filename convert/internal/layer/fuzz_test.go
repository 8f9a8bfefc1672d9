package layer_test

import (
	"bytes"
	"errors"
	"io"
	"path"
	"strings"
	"testing"

	"hpcimg/convert/internal/layer"
	"hpcimg/internal/testtree"
)

type notes map[layer.Code]int

func (n notes) Note(code layer.Code, _, _ string) { n[code]++ }

func seedTree() testtree.Tree {
	return testtree.Tree{
		testtree.Dir("d", 0o755, testtree.Xattr("user.a", "b"), testtree.Xattr("security.selinux", "c")),
		testtree.File("d/f", 0o4755, "contents", testtree.Owner(1, 1<<22)),
		testtree.Hardlink("d/g", "d/f"), testtree.Symlink("l", "../d"), testtree.Char("c", 0o600, 1, 3),
		testtree.Whiteout("d/x"), testtree.Opaque("d"), testtree.FIFO("p", 0o600),
		testtree.File(strings.Repeat("long/", 60)+"name", 0o644, ""),
	}
}

// FuzzLayerTar wants of any stream: entries that keep the promises of Entry, an error of a documented kind, the same entries at a
// second reading, and no more bytes than the budget allows.
func FuzzLayerTar(f *testing.F) {
	f.Add(seedTree().Tar(nil))
	f.Add(seedTree().TarGzip(nil))
	f.Add([]byte("\x28\xb5\x2f\xfd\x04\x00\x01\x00\x00\x99\xe9\xd8\x51"))
	f.Add(append(testtree.Tree{testtree.File("a", 0o644, "x")}.Tar(nil), 1, 2, 3))
	f.Fuzz(func(t *testing.T, data []byte) {
		first, firstErr := read(t, data)
		second, secondErr := read(t, data)
		if len(first) != len(second) || (firstErr == nil) != (secondErr == nil) {
			t.Fatalf("%d entries and %v, then %d and %v", len(first), firstErr, len(second), secondErr)
		}
		for i := range first {
			if first[i].Path != second[i].Path || first[i].Kind != second[i].Kind {
				t.Fatalf("entry %d: %+v, then %+v", i, first[i], second[i])
			}
		}
	})
}

const fuzzBytes = 1 << 20

func read(t *testing.T, data []byte) (entries []layer.Entry, err error) {
	t.Helper()
	defer func() {
		if err != nil && !documented(err) {
			t.Fatalf("error %T %v", err, err)
		}
	}()
	s, err := layer.Open(io.NopCloser(bytes.NewReader(data)), "")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	r := layer.NewTar(s, &layer.Budget{Entries: 1000, Bytes: fuzzBytes}, notes{})
	var total int64
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return entries, err
		}
		check(t, &e)
		entries = append(entries, e)
		n, err := io.Copy(io.Discard, r)
		if total += n; total > fuzzBytes {
			t.Fatalf("%d bytes of contents", total)
		}
		if err != nil {
			return entries, err
		}
		if e.Kind == layer.File && n != e.Size {
			t.Fatalf("%+v has %d bytes", e, n)
		}
	}
}

func documented(err error) bool {
	for _, known := range []error{layer.ErrFormat, layer.ErrLimit, layer.ErrUnsafePath, layer.ErrWhiteout, errors.ErrUnsupported} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

func check(t *testing.T, e *layer.Entry) {
	t.Helper()
	checkPath(t, e.Path)
	switch e.Kind {
	case layer.HardLink:
		checkPath(t, e.Link)
	case layer.Symlink:
		if e.Link == "" || len(e.Link) > 4095 || strings.ContainsRune(e.Link, 0) {
			t.Fatalf("link target %q", e.Link)
		}
	}
	if e.Path == "." && e.Kind != layer.Dir && e.Kind != layer.Opaque {
		t.Fatalf("root is %d", e.Kind)
	}
	if e.Size < 0 || e.Kind != layer.File && e.Size != 0 {
		t.Fatalf("size %d", e.Size)
	}
	for name := range e.Xattrs {
		if !layer.KeepXattr(e.Kind, name) {
			t.Fatalf("xattr %q", name)
		}
	}
}

func checkPath(t *testing.T, p string) {
	t.Helper()
	if p != path.Clean(p) || path.IsAbs(p) || p == ".." || strings.HasPrefix(p, "../") || len(p) > layer.MaxPath || strings.ContainsRune(p, 0) {
		t.Fatalf("path %q", p)
	}
	for part := range strings.SplitSeq(p, "/") {
		if len(part) > layer.MaxName {
			t.Fatalf("name %q", part)
		}
	}
}
