package convert_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hpcimg/convert"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

// header is a tar header as somebody with bad intentions writes it, with contents.
type header struct {
	tar.Header
	data string
}

func reg(name, data string) header {
	return header{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))}, data}
}

func typed(flag byte, name, target string) header {
	return header{tar.Header{Name: name, Typeflag: flag, Linkname: target, Mode: 0o755}, ""}
}

func with(h header, change func(*tar.Header)) header {
	change(&h.Header)
	return h
}

func pax(h header, key, value string) header {
	h.PAXRecords = map[string]string{key: value}
	return h
}

func writeTar(t testing.TB, headers ...header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(h.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// patch changes a field of the first header, and its checksum.
func patch(archive []byte, offset int, field string) []byte {
	copy(archive[offset:], field)
	copy(archive[148:156], "        ")
	sum := 0
	for _, c := range archive[:512] {
		sum += int(c)
	}
	copy(archive[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return archive
}

const (
	nameField = 0
	uidField  = 108
	gidField  = 116
	sizeField = 124
	typeField = 156
	linkField = 157
)

// fromTar converts a tar stream, beside which a canary lies that must not change.
func fromTar(t *testing.T, archive []byte, opts *convert.Options) (testtree.Listing, *convert.Result, error) {
	t.Helper()
	dir := t.TempDir()
	canary := filepath.Join(dir, "dest2")
	if err := os.WriteFile(canary, []byte("alive"), 0o600); err != nil {
		t.Fatal(err)
	}
	sub := filepath.Join(dir, "dest")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(sub, "image.sqfs")
	result, err := convert.Convert(t.Context(), convert.FromTar(bytes.NewReader(archive)), dst, opts)
	if data, readErr := os.ReadFile(canary); readErr != nil || string(data) != "alive" {
		t.Errorf("canary: %q, %v", data, readErr)
	}
	var names []string
	for _, e := range readDir(t, dir) {
		names = append(names, e.Name())
	}
	if want := []string{"dest", "dest2"}; !slices.Equal(names, want) {
		t.Errorf("directory has %q", names)
	}
	if err != nil {
		if left := readDir(t, sub); len(left) > 0 {
			t.Errorf("%d files left: %v", len(left), left)
		}
		return nil, nil, err
	}
	r, err := squashfs.Open(dst, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	list, err := testtree.FromFS(r)
	if err != nil {
		t.Fatal(err)
	}
	return list, result, nil
}

func readDir(t testing.TB, dir string) []fs.DirEntry {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// TestHostileLayers is the table of attacks by what is in a layer (L1 to L16 of the threat model). Each one is refused with the error
// that is documented for it, or has only the paths that it is meant to have.
func TestHostileLayers(t *testing.T) {
	many := make([]header, 101)
	for i := range many {
		many[i] = reg(fmt.Sprintf("f%d", i), "")
	}
	chain := []header{typed(tar.TypeDir, "end", "")}
	for i := range 300 {
		target := fmt.Sprintf("l%d", i-1)
		if i == 0 {
			target = "end"
		}
		chain = append(chain, typed(tar.TypeSymlink, fmt.Sprintf("l%d", i), target))
	}
	few := &convert.Options{Limits: convert.Limits{Entries: 100}}
	terse := &convert.Options{Limits: convert.Limits{Text: 1000}}
	small := &convert.Options{Limits: convert.Limits{Bytes: 100_000}}
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	tests := []struct {
		name string
		tar  []byte
		opts *convert.Options
		want string // paths; used if err is nil
		err  error
	}{
		{name: "L1 climbs", tar: writeTar(t, reg("../../dest2", "x")), want: "dest2"},
		{name: "L1 climbs later", tar: writeTar(t, reg("a/../../x", "x")), want: "x"},
		{name: "L1 absolute", tar: writeTar(t, reg("/etc/passwd", "x")), want: "etc etc/passwd"},
		{name: "L1 many slashes", tar: writeTar(t, reg("//a///b", "x")), want: "a a/b"},
		{name: "L1 dot slash", tar: writeTar(t, reg("./a", "x")), want: "a"},
		{name: "L1 sibling prefix", tar: writeTar(t, reg("../dest2/x", "x")), want: "dest2 dest2/x"},
		{name: "L1 empty name", tar: patch(writeTar(t, reg("a", "x")), nameField, "\x00"), err: convert.ErrUnsafePath},
		{name: "L1 dot as file", tar: writeTar(t, reg(".", "x")), err: convert.ErrUnsafePath},
		{name: "L1 slash as file", tar: writeTar(t, reg("/.", "x")), err: convert.ErrUnsafePath},
		{name: "L1 root as link", tar: writeTar(t, typed(tar.TypeSymlink, "a/..", "/etc")), err: convert.ErrUnsafePath},
		{name: "L1 root by dots", tar: writeTar(t, typed(tar.TypeDir, "a/../..", "")), want: ""},

		{name: "L2 to nothing", tar: writeTar(t, typed(tar.TypeLink, "a", "b")), err: convert.ErrHardLink},
		{name: "L2 to nothing is fs.ErrNotExist", tar: writeTar(t, typed(tar.TypeLink, "a", "b")), err: fs.ErrNotExist},
		{name: "L2 to itself", tar: writeTar(t, typed(tar.TypeLink, "a", "a")), err: convert.ErrHardLink},
		{name: "L2 to a directory", tar: writeTar(t, typed(tar.TypeDir, "d", ""), typed(tar.TypeLink, "a", "d")), err: convert.ErrHardLink},
		{name: "L2 to the root", tar: writeTar(t, typed(tar.TypeLink, "a", "/")), err: convert.ErrHardLink},
		{name: "L2 out of the root", tar: writeTar(t, typed(tar.TypeLink, "a", "../../../etc/passwd")), err: convert.ErrHardLink},
		{name: "L2 absolute", tar: writeTar(t, reg("a", "x"), typed(tar.TypeLink, "b", "/a")), want: "a b"},
		{
			name: "L2 out by way of a link", tar: writeTar(t, typed(tar.TypeSymlink, "l", "/etc"), typed(tar.TypeLink, "a", "l/passwd")),
			err: convert.ErrHardLink,
		},
		{name: "L2 later", tar: writeTar(t, typed(tar.TypeLink, "b", "a"), reg("a", "x")), err: convert.ErrHardLink},

		{name: "L3 out by way of a link", tar: writeTar(t, typed(tar.TypeSymlink, "l", "../.."), reg("l/dest2", "x")), want: "dest2 l"},
		{name: "L3 absolute link", tar: writeTar(t, typed(tar.TypeSymlink, "l", "/tmp"), reg("l/x", "x")), want: "l tmp tmp/x"},
		{name: "L3 over a link", tar: writeTar(t, typed(tar.TypeSymlink, "l", "/etc/passwd"), reg("l", "x")), want: "l"},
		{
			name: "L3 link in place of a directory", tar: writeTar(t, reg("d/a", "1"), typed(tar.TypeSymlink, "d", "/etc"), reg("d/a", "2")),
			want: "d etc etc/a",
		},
		{name: "L3 loop", tar: writeTar(t, typed(tar.TypeSymlink, "a", "a"), reg("a/b", "x")), err: convert.ErrUnsafePath},
		{name: "L3 long chain", tar: writeTar(t, append(chain, reg("l299/x", "x"))...), err: convert.ErrUnsafePath},

		{name: "L4 nothing", tar: writeTar(t, reg(".wh.", "")), err: convert.ErrWhiteout},
		{name: "L4 dot", tar: writeTar(t, reg("a/.wh..", "")), err: convert.ErrWhiteout},
		{name: "L4 dots", tar: writeTar(t, reg("a/.wh...", "")), err: convert.ErrWhiteout},
		{name: "L4 meta", tar: writeTar(t, reg(".wh..wh.aufs", ""), reg(".wh..wh.plnk/1.2", ""), reg("a", "")), want: "a"},
		{name: "L4 as directory", tar: writeTar(t, typed(tar.TypeDir, ".wh.x/", ""), reg("x", "")), want: "x"},
		{name: "L4 as hard link", tar: writeTar(t, reg("x", ""), typed(tar.TypeLink, ".wh.x", "x")), want: "x"},
		{name: "L4 of four dots", tar: writeTar(t, reg(".wh.....", ""), reg("a", "")), want: "a"},

		{name: "L5 twice", tar: writeTar(t, reg("a", "1"), typed(tar.TypeDir, "a", ""), reg("a", "2")), want: "a"},
		{name: "L5 case", tar: writeTar(t, reg("a", "1"), reg("A", "2")), want: "A a"},
		{name: "L5 unicode", tar: writeTar(t, reg("é", "1"), reg("e\u0301", "2")), want: "e\u0301 é"},

		{name: "L6 fifo and devices", tar: writeTar(t, typed(tar.TypeFifo, "p", ""), typed(tar.TypeChar, "c", ""), typed(tar.TypeBlock, "b", "")), want: "b c p"},
		{
			name: "L6 major out of range", tar: writeTar(t, with(typed(tar.TypeChar, "c", ""), func(h *tar.Header) { h.Devmajor = 4096 })),
			err: convert.ErrFormat,
		},
		{
			name: "L6 minor out of range", tar: writeTar(t, with(typed(tar.TypeBlock, "b", ""), func(h *tar.Header) { h.Devminor = 1 << 20 })),
			err: convert.ErrFormat,
		},
		{name: "L6 unknown type", tar: patch(writeTar(t, reg("a", "")), typeField, "V"), err: errors.ErrUnsupported},

		{name: "L7 long path", tar: writeTar(t, reg(strings.Repeat("a/", 2100)+"b", "")), err: convert.ErrLimit},
		{name: "L7 path of 800 kB", tar: writeTar(t, reg(strings.Repeat("a", 800_001), "")), err: convert.ErrLimit},
		{name: "L7 long name", tar: writeTar(t, reg(long(256), "")), err: convert.ErrLimit},
		{name: "L7 long link", tar: writeTar(t, typed(tar.TypeSymlink, "l", strings.Repeat("a/", 2048))), err: convert.ErrLimit},
		{name: "L7 empty link", tar: patch(writeTar(t, typed(tar.TypeSymlink, "l", "x")), linkField, "\x00"), err: convert.ErrFormat},
		{name: "L7 negative size", tar: patch(writeTar(t, reg("a", "")), sizeField, "-0000000001\x00"), err: convert.ErrFormat},
		{name: "L7 year 3000", tar: writeTar(t, with(reg("a", ""), func(h *tar.Header) { h.ModTime = time.Unix(32503680000, 0) })), want: "a"},
		{name: "L7 before 1970", tar: writeTar(t, with(reg("a", ""), func(h *tar.Header) { h.ModTime = time.Unix(-1e10, 0) })), want: "a"},
		{name: "L7 global header", tar: writeTar(t, header{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}, ""}, reg("a", "")), want: "a"},
		{name: "L7 huge xattr", tar: writeTar(t, pax(reg("a", ""), "SCHILY.xattr.user.x", strings.Repeat("x", 70_000))), err: convert.ErrLimit},
		{name: "L7 xattr without a name", tar: writeTar(t, pax(reg("a", ""), "SCHILY.xattr.", "x")), err: convert.ErrFormat},
		{name: "L7 xattr in bad base64", tar: writeTar(t, pax(reg("a", ""), "LIBARCHIVE.xattr.user.x", "***")), err: convert.ErrFormat},

		{name: "L8 declared size", tar: patch(writeTar(t, reg("a", "")), sizeField, "77777777777\x00"), opts: small, err: convert.ErrLimit},
		{name: "L8 truncated", tar: patch(writeTar(t, reg("a", "")), sizeField, "00000100000\x00"), err: convert.ErrFormat},

		{name: "L9 uid 2^32-1", tar: patch(writeTar(t, reg("a", "")), uidField, "\x80\x00\x00\x00\xff\xff\xff\xff"), err: convert.ErrFormat},
		{name: "L9 uid 2^40", tar: patch(writeTar(t, reg("a", "")), uidField, "\x80\x00\x01\x00\x00\x00\x00\x00"), err: convert.ErrFormat},
		{name: "L9 negative gid", tar: patch(writeTar(t, reg("a", "")), gidField, "\xff\xff\xff\xff\xff\xff\xff\xfe"), err: convert.ErrFormat},
		{name: "L9 uid 2^32-2", tar: patch(writeTar(t, reg("a", "")), uidField, "\x80\x00\x00\x00\xff\xff\xff\xfe"), want: "a"},

		{name: "L10 many entries", tar: writeTar(t, many...), opts: few, err: convert.ErrLimit},
		{name: "L10 as many as may be", tar: writeTar(t, many[:3]...), opts: few, want: "f0 f1 f2"},

		{name: "L10 long names", tar: writeTar(t, reg(long(250)+"/"+long(250)+"/"+long(250)+"/"+long(250), "")), opts: terse, err: convert.ErrLimit},
		{name: "L11 large stream", tar: writeTar(t, reg("a", strings.Repeat("x", 200_000))), opts: small, err: convert.ErrLimit},
		{name: "L11 gzip bomb", tar: testtree.Gzip(writeTar(t, reg("a", strings.Repeat("\x00", 50_000_000)))), opts: small, err: convert.ErrLimit},

		{name: "L12 two members", tar: twoMembers(writeTar(t, reg("a", "x"))), want: "a"},
		{name: "L12 garbage behind", tar: append(testtree.Gzip(writeTar(t, reg("a", "x"))), "garbage"...), err: convert.ErrFormat},
		{name: "L12 zeros behind", tar: append(testtree.Gzip(writeTar(t, reg("a", "x"))), make([]byte, 512)...), err: convert.ErrFormat},
		{name: "L12 bad checksum", tar: flip(testtree.Gzip(writeTar(t, reg("a", "x"))), -8), err: convert.ErrFormat},
		{name: "L12 truncated gzip", tar: testtree.Gzip(writeTar(t, reg("a", "x")))[:60], err: convert.ErrFormat},
		{name: "L12 no tar", tar: bytes.Repeat([]byte("no tar at all. "), 100), err: convert.ErrFormat},
		{name: "L12 truncated header", tar: writeTar(t, reg("a", "x"))[:300], err: convert.ErrFormat},
		{name: "L12 nothing", tar: nil, want: ""},
		{name: "L13 window", tar: []byte("\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00"), err: convert.ErrFormat},

		{name: "L14 no end", tar: writeTar(t, reg("a", "x"))[:1024], want: "a"},
		{name: "L14 something behind the end", tar: append(writeTar(t, reg("a", "x")), writeTar(t, reg("b", "x"))...), want: "a"},

		{name: "L15 capability", tar: writeTar(t, pax(reg("a", ""), "SCHILY.xattr.security.capability", capability)), want: "a"},
		{name: "L15 overlay", tar: writeTar(t, pax(typed(tar.TypeDir, "a", ""), "SCHILY.xattr.trusted.overlay.opaque", "y")), want: "a"},

		{name: "L16 file before its directory", tar: writeTar(t, reg("d/a", "x"), typed(tar.TypeDir, "d", "")), want: "d d/a"},
		{
			name: "L16 parent becomes a link", tar: writeTar(t, reg("d/a", "1"), typed(tar.TypeDir, "e", ""), typed(tar.TypeSymlink, "d", "e"), reg("d/b", "2")),
			want: "d e e/b",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, _, err := fromTar(t, test.tar, test.opts)
			if test.err != nil || err != nil {
				e, typed := errors.AsType[*convert.Error](err)
				if !errors.Is(err, test.err) || !typed || e.Side != convert.SideSource {
					t.Fatalf("error %v (%+v), want %v", err, e, test.err)
				}
				return
			}
			delete(got, ".")
			if paths := strings.Join(slices.Sorted(maps.Keys(got)), " "); paths != test.want {
				t.Errorf("paths %q, want %q", paths, test.want)
			}
		})
	}
}

func twoMembers(archive []byte) []byte {
	return append(testtree.Gzip(archive[:700]), testtree.Gzip(archive[700:])...)
}

// flip changes a byte, counted from the end if at is negative.
func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 0x55
	return b
}
