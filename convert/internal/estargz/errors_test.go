package estargz_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hpcimg/convert/internal/estargz"
	"hpcimg/convert/internal/layer"
	"hpcimg/internal/testtree"
)

// TestRefused has archives that no blob stands for, streaming and sorted.
func TestRefused(t *testing.T) {
	device := tarEntry{Header: tar.Header{Name: "c", Typeflag: tar.TypeChar, Devmajor: 4096}}
	xattr := func(name, value string) tarEntry {
		e := file("x", "")
		e.Header.PAXRecords = map[string]string{"SCHILY.xattr." + name: value}
		return e
	}
	owner := func(uid, gid int) tarEntry {
		e := file("o", "")
		e.Header.Uid, e.Header.Gid = uid, gid
		return e
	}
	chain := []tarEntry{file("0", "0")}
	for i := range 100 {
		chain = append(chain, link(fmt.Sprint(i+1), fmt.Sprint(i)))
	}
	for _, tt := range []struct {
		name    string
		archive []tarEntry
		want    error
		text    string
	}{
		{"path too long", []tarEntry{file(strings.Repeat("a/", 2100)+"a", "")}, layer.ErrLimit, "4096 bytes in a path"},
		{"name too long", []tarEntry{file(strings.Repeat("a", 256), "")}, layer.ErrLimit, "255 bytes in a name"},
		{"name not UTF-8", []tarEntry{file("caf\xe9", "")}, errors.ErrUnsupported, "store the layer as plain tar"},
		{"target not UTF-8", []tarEntry{symlink("a", "caf\xe9")}, errors.ErrUnsupported, `"caf\xe9" is not UTF-8`},
		{"target too long", []tarEntry{symlink("a", strings.Repeat("t", 4096))}, layer.ErrLimit, "link target"},
		{"no target", []tarEntry{symlink("a", "")}, layer.ErrFormat, "without a target"},
		{"file as root", []tarEntry{file(".", "")}, layer.ErrUnsafePath, "root has to be a directory"},
		{"link as root", []tarEntry{symlink("..", "a")}, layer.ErrUnsafePath, "root has to be a directory"},
		{"device", []tarEntry{device}, layer.ErrFormat, "device number 4096:0"},
		{"uid", []tarEntry{owner(-1, 0)}, layer.ErrFormat, "owner -1:0"},
		{"gid", []tarEntry{owner(0, 1<<32-1)}, layer.ErrFormat, "owner 0:4294967295"},
		{"mode", []tarEntry{{Header: tar.Header{Name: "m", Mode: 1 << 30}}}, layer.ErrFormat, "mode"},
		{"owner's name", []tarEntry{{Header: tar.Header{Name: "m", Uname: strings.Repeat("u", 300)}}}, layer.ErrLimit, "name of an owner"},
		{"xattr without a name", []tarEntry{xattr("", "v")}, layer.ErrFormat, "attribute name"},
		{"xattr with a long name", []tarEntry{xattr(strings.Repeat("n", 256), "v")}, layer.ErrFormat, "attribute name"},
		{"xattr not UTF-8", []tarEntry{xattr("user.\xff", "v")}, errors.ErrUnsupported, "not UTF-8"},
		{"xattr too large", []tarEntry{xattr("user.a", strings.Repeat("v", 1<<16))}, layer.ErrLimit, "extended attributes"},
		{"link to nothing", []tarEntry{link("a", "b"), file("b", "")}, errors.ErrUnsupported, `hard link to "b", which is not in the layer before it`},
		{"link to itself", []tarEntry{link("a", "./a")}, layer.ErrHardLink, "itself"},
		{"link to itself, replacing a file", []tarEntry{file("a", "a"), link("a", "a")}, layer.ErrHardLink, "itself"},
		{"link to a directory", []tarEntry{dir("d"), link("d/a", "d")}, layer.ErrHardLink, "not a file"},
		{"link to a directory without an entry", []tarEntry{file("d/f", ""), link("a", "d")}, layer.ErrHardLink, "not a file"},
		{"link to the root", []tarEntry{file("f", ""), link("a", "/")}, layer.ErrHardLink, "not a file"},
		{"link to a landmark", []tarEntry{link("a", ".no.prefetch.landmark")}, layer.ErrHardLink, "not a file"},
		{"chain of links", chain, layer.ErrLimit, "64 hard links"},
		{"linked file replaced", []tarEntry{file("f", "1"), link("l", "f"), file("f", "2")}, errors.ErrUnsupported, "replaces"},
		{"below a file", []tarEntry{file("f", "1"), file("f/g", "2")}, errors.ErrUnsupported, `below "f"`},
		{"below a symbolic link", []tarEntry{dir("d"), symlink("l", "d"), file("l/g/h", "2")}, errors.ErrUnsupported, `below "l"`},
		{"below a hard link", []tarEntry{file("f", ""), link("l", "f"), file("l/g/h", "2")}, errors.ErrUnsupported, `below "l"`},
		{"below the TOC", []tarEntry{file("stargz.index.json/a", "")}, errors.ErrUnsupported, "below"},
		{"directory replaced", []tarEntry{dir("d"), file("d/f", "f"), file("d", "")}, errors.ErrUnsupported, "not empty"},
		{"directory without an entry replaced", []tarEntry{file("d/e/f", "f"), symlink("d/e", "x")}, errors.ErrUnsupported, "not empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			archive := makeTar(t, tt.archive...)
			for _, o := range []*estargz.Options{nil, {Prioritized: []string{"a", "5"}}} {
				_, res, err := write(archive, o)
				if !errors.Is(err, tt.want) || res != nil || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("%v, want %v with %q", err, tt.want, tt.text)
				}
				if e, ok := errors.AsType[*layer.EntryError](err); !ok || e.Name == "" || len(err.Error()) > 2000 {
					t.Errorf("%T of %d bytes, want an EntryError", err, len(err.Error()))
				}
			}
		})
	}
}

func TestMalformed(t *testing.T) {
	archive := makeTar(t, file("a", strings.Repeat("a", 2000)), file("b", "b"))
	flipped := bytes.Clone(archive)
	flipped[5] ^= 1
	for name, data := range map[string][]byte{
		"cut in a file": archive[:1000], "cut in a header": archive[:512+2048+100],
		"checksum": flipped, "no tar": []byte(strings.Repeat("text ", 400)), "gzip": testtree.Gzip(archive),
	} {
		for _, o := range []*estargz.Options{nil, {Workers: 1}, {Prioritized: []string{"b"}}} {
			if _, _, err := write(data, o); !errors.Is(err, layer.ErrFormat) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestLimits(t *testing.T) {
	archive := makeTar(t, dir("d"), file("d/a", strings.Repeat("a", 2000)), file("d/b", "b"), file("e/c", "c"))
	for _, tt := range []struct {
		limits estargz.Limits
		what   string
	}{
		{estargz.Limits{}, ""},
		{estargz.Limits{Entries: 6, Bytes: 20_000, Text: 200}, ""}, // the landmark is one, and a has two chunks
		{estargz.Limits{Entries: 5}, "entries"},
		{estargz.Limits{Bytes: 5000}, "bytes in a layer"},
		{estargz.Limits{Text: 30}, "bytes in names"},
	} {
		for _, prio := range [][]string{nil, {"d/b"}} {
			_, _, err := write(archive, &estargz.Options{ChunkSize: 1500, Limits: tt.limits, Prioritized: prio})
			if tt.what == "" && err != nil {
				t.Errorf("%+v: %v", tt.limits, err)
			}
			if l, ok := errors.AsType[*layer.LimitError](err); tt.what != "" && (!ok || !strings.Contains(l.What, tt.what)) {
				t.Errorf("%+v: %v", tt.limits, err)
			}
		}
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []estargz.Options{{ChunkSize: -1}, {ChunkSize: 1 << 30}, {Level: 10}, {Level: -1}, {Workers: -2}, {Workers: 1 << 20}} {
		if _, _, err := write(nil, &o); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for level := range 10 {
		blob, res := mustWrite(t, everything(), &estargz.Options{Level: level})
		check(t, blob, res)
	}
}

var errDisk = errors.New("disk on fire")

// after fails after so many bytes.
type after struct {
	n   int
	err error
}

func (a *after) Write(p []byte) (int, error) {
	if a.n -= len(p); a.n < 0 {
		return 0, a.err
	}
	return len(p), nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestFailures wants the error of whoever failed, and nothing left behind.
func TestFailures(t *testing.T) {
	var list testtree.Tree
	for i := range 40 {
		list = append(list, testtree.File(fmt.Sprint(i), 0o644, testtree.Bytes(uint64(i), 20_000)))
	}
	archive := list.Tar(nil)
	before := runtime.NumGoroutine()
	dir := t.TempDir()
	for _, workers := range []int{1, 3} {
		for _, prio := range [][]string{nil, {"30"}} {
			o := &estargz.Options{Workers: workers, Level: 1, Prioritized: prio, SpoolDir: dir}
			_, res := mustWrite(t, archive, o)
			for _, n := range []int{0, 1000, int(res.Size) / 2, int(res.Size) - 52, int(res.Size) - 1} {
				_, err := estargz.Write(t.Context(), &after{n, errDisk}, bytes.NewReader(archive), o)
				if !errors.Is(err, errDisk) {
					t.Errorf("writer fails after %d: %v", n, err)
				}
			}
			for _, n := range []int{0, 700, len(archive) / 2, len(archive) - 1, len(archive)} {
				r := io.MultiReader(bytes.NewReader(archive[:n]), failing{errDisk})
				_, err := estargz.Write(t.Context(), io.Discard, r, o)
				if !errors.Is(err, errDisk) || errors.Is(err, layer.ErrFormat) {
					t.Errorf("reader fails after %d: %v", n, err)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			_, err := estargz.Write(ctx, cancelling{cancel}, bytes.NewReader(archive), o)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
		}
	}
	_, err := estargz.Write(t.Context(), short{}, bytes.NewReader(archive), nil)
	if !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("short write: %v", err)
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, before %d", n, before)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	_, err = estargz.Write(t.Context(), io.Discard, io.MultiReader(bytes.NewReader(archive)),
		&estargz.Options{Prioritized: []string{"1"}, SpoolDir: filepath.Join(dir, "missing")})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory for the spool: %v", err)
	}
}

type cancelling struct{ cancel func() }

func (c cancelling) Write(p []byte) (int, error) { c.cancel(); return len(p), nil }

type short struct{}

func (short) Write(p []byte) (int, error) { return len(p) / 2, nil }

// TestChanged has a file that is another one at the second reading.
func TestChanged(t *testing.T) {
	first, second := makeTar(t, file("a", "a"), file("b", "b")), makeTar(t, file("a", "a"), file("c", "b"))
	for _, data := range [][]byte{second, nil, second[:700]} {
		_, err := estargz.Write(t.Context(), io.Discard, &changing{bytes.NewReader(first), data}, &estargz.Options{Prioritized: []string{"b"}})
		if !errors.Is(err, layer.ErrFormat) {
			t.Errorf("%d bytes: %v", len(data), err)
		}
	}
}

type changing struct {
	*bytes.Reader
	then []byte
}

func (c *changing) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekStart && offset == 0 {
		c.Reader = bytes.NewReader(c.then)
	}
	return c.Reader.Seek(offset, whence)
}

// counting counts what is read of it.
type counting struct {
	io.Reader
	n atomic.Int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// stuck is a writer that takes nothing until it is released.
type stuck chan struct{}

func (s stuck) Write(p []byte) (int, error) { <-s; return len(p), nil }

// TestMemory wants no more of the input in memory than the batches hold.
func TestMemory(t *testing.T) {
	const size, most = 1 << 30, 5 * (4<<20 + 1<<20)
	var head bytes.Buffer
	if err := tar.NewWriter(&head).WriteHeader(&tar.Header{Name: "large", Size: size}); err != nil {
		t.Fatal(err)
	}
	r := &counting{Reader: io.MultiReader(&head, io.LimitReader(zeros{}, size))}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, done := make(stuck), make(chan error)
	go func() {
		_, err := estargz.Write(ctx, w, r, &estargz.Options{Workers: 2})
		done <- err
	}()
	for last, still := int64(-1), 0; still < 20; time.Sleep(10 * time.Millisecond) {
		n := r.n.Load()
		if still++; n != last || n < 1<<20 {
			last, still = n, 0
		}
	}
	if n := r.n.Load(); n > most {
		t.Errorf("%d bytes read while none could be written", n)
	}
	cancel()
	close(w)
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
