package estargz_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	foreign "github.com/containerd/stargz-snapshotter/estargz"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"hpcimg/convert/internal/estargz"
	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
)

// tarEntry is an entry as a reader of tar sees it.
type tarEntry struct {
	Header tar.Header
	Data   string
}

func readTar(tb testing.TB, r io.Reader) []tarEntry {
	tb.Helper()
	var list []tarEntry
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return list
		}
		if err != nil {
			tb.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			tb.Fatal(err)
		}
		list = append(list, tarEntry{*h, string(data)})
	}
}

// unspelled leaves out of h how it is written.
func unspelled(h tar.Header) tar.Header {
	h.Format = 0
	records := make(map[string]string)
	for key, value := range h.PAXRecords {
		switch key {
		case "path", "linkpath", "size", "uid", "gid", "uname", "gname", "mtime", "atime", "ctime":
		default:
			records[key] = value
		}
	}
	h.PAXRecords = records
	return h
}

func sameEntries(tb testing.TB, want, got []tarEntry) {
	tb.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmp.Transformer("unspelled", unspelled)); diff != "" {
		tb.Errorf("tar entries (-input +blob):\n%s", diff)
	}
}

// makeTar writes headers as they are. The contents of an entry have its size.
func makeTar(tb testing.TB, list ...tarEntry) []byte {
	tb.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range list {
		if err := tw.WriteHeader(&e.Header); err != nil {
			tb.Fatal(err)
		}
		if _, err := io.WriteString(tw, e.Data); err != nil {
			tb.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func file(name, data string) tarEntry {
	return tarEntry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))}, data}
}

func dir(name string) tarEntry {
	return tarEntry{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}}
}

func link(name, target string) tarEntry {
	return tarEntry{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target, Mode: 0o644}}
}

func symlink(name, target string) tarEntry {
	return tarEntry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}}
}

func write(archive []byte, o *estargz.Options) ([]byte, *estargz.Result, error) {
	var blob bytes.Buffer
	res, err := estargz.Write(context.Background(), &blob, bytes.NewReader(archive), o)
	return blob.Bytes(), res, err
}

func mustWrite(tb testing.TB, archive []byte, o *estargz.Options) ([]byte, *estargz.Result) {
	tb.Helper()
	blob, res, err := write(archive, o)
	if err != nil {
		tb.Fatal(err)
	}
	return blob, res
}

// check holds a blob to what its result says of it, and to what the format's own package makes of it. It returns the tar
// entries of the blob, without the landmark and the TOC.
func check(tb testing.TB, blob []byte, res *estargz.Result) []tarEntry {
	tb.Helper()
	if got := digest.FromBytes(blob); got != res.Digest || int64(len(blob)) != res.Size {
		tb.Errorf("blob %s of %d bytes, result %s of %d", got, len(blob), res.Digest, res.Size)
	}
	zr, err := gzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		tb.Fatal(err)
	}
	stream, err := io.ReadAll(zr)
	if err != nil {
		tb.Fatal(err)
	}
	if got := digest.FromBytes(stream); got != res.DiffID || int64(len(stream)) != res.UncompressedSize {
		tb.Errorf("stream %s of %d bytes, result %s of %d", got, len(stream), res.DiffID, res.UncompressedSize)
	}
	list := readTar(tb, bytes.NewReader(stream))
	if last := list[len(list)-1]; last.Header.Name != foreign.TOCTarName || digest.FromString(last.Data) != res.TOCDigest {
		tb.Errorf("last entry %s with digest %s, want %s", last.Header.Name, digest.FromString(last.Data), res.TOCDigest)
	}
	list = list[:len(list)-1]
	readEach(tb, blob, res, list)
	return slices.DeleteFunc(list, func(e tarEntry) bool { return strings.HasSuffix(e.Header.Name, ".landmark") })
}

// readEach reads every file of list through the TOC, and verifies its chunks.
func readEach(tb testing.TB, blob []byte, res *estargz.Result, list []tarEntry) {
	tb.Helper()
	r, err := foreign.Open(io.NewSectionReader(bytes.NewReader(blob), 0, int64(len(blob))))
	if err != nil {
		tb.Fatal(err)
	}
	verifier, err := r.VerifyTOC(res.TOCDigest)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range final(list) {
		name := e.Header.Name
		te, ok := r.Lookup(name)
		if !ok {
			tb.Errorf("%q is not in the TOC", name)
			continue
		}
		if e.Header.Typeflag == tar.TypeLink {
			continue
		}
		if want := e.Header.FileInfo().Mode(); te.Stat().Mode() != want || te.UID != e.Header.Uid || te.GID != e.Header.Gid {
			tb.Errorf("%q: %v %d:%d, in tar %v %d:%d", name, te.Stat().Mode(), te.UID, te.GID, want, e.Header.Uid, e.Header.Gid)
		}
		if e.Header.Typeflag == tar.TypeReg {
			readFile(tb, r, verifier, name, e.Data)
		}
	}
}

// final leaves out entries that are replaced.
func final(list []tarEntry) []tarEntry {
	last := make(map[string]int)
	for i, e := range list {
		last[path.Clean("/"+e.Header.Name)] = i
	}
	var out []tarEntry
	for i, e := range list {
		if last[path.Clean("/"+e.Header.Name)] == i {
			out = append(out, e)
		}
	}
	return out
}

func readFile(tb testing.TB, r *foreign.Reader, verifier foreign.TOCEntryVerifier, name, want string) {
	tb.Helper()
	f, err := r.OpenFile(name)
	if err != nil {
		tb.Error(err)
		return
	}
	got, err := io.ReadAll(f)
	if err != nil || string(got) != want {
		tb.Errorf("%q: %d bytes, %v, want %d bytes", name, len(got), err, len(want))
		return
	}
	for at := int64(0); at < int64(len(want)); {
		c, ok := r.ChunkEntryForOffset(name, at)
		if !ok || c.ChunkOffset != at || c.ChunkSize <= 0 {
			tb.Errorf("%q: no chunk at %d", name, at)
			return
		}
		v, err := verifier.Verifier(c)
		if err != nil {
			tb.Error(err)
			return
		}
		_, _ = io.WriteString(v, want[at:at+c.ChunkSize])
		if !v.Verified() {
			tb.Errorf("%q: the chunk at %d is not what the TOC says", name, at)
		}
		at += c.ChunkSize
	}
}

// readTOC decodes the TOC without what the two packages may differ in: offsets.
func readTOC(tb testing.TB, blob []byte) []foreign.TOCEntry {
	tb.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		tb.Fatal(err)
	}
	list := readTar(tb, zr)
	var toc foreign.JTOC
	d := json.NewDecoder(strings.NewReader(list[len(list)-1].Data))
	d.DisallowUnknownFields()
	if err := d.Decode(&toc); err != nil {
		tb.Fatal(err)
	}
	if toc.Version != 1 {
		tb.Errorf("version %d", toc.Version)
	}
	var out []foreign.TOCEntry
	for _, e := range toc.Entries {
		e.Offset = 0
		out = append(out, *e)
	}
	return out
}

// buildForeign is the format's own package, sequential: then it writes names of owners once per layer as we do.
func buildForeign(tb testing.TB, archive []byte, opts ...foreign.Option) []byte {
	tb.Helper()
	blob, err := foreign.Build(io.NewSectionReader(bytes.NewReader(archive), 0, int64(len(archive))),
		append(opts, foreign.WithParallelism(1))...)
	if err != nil {
		tb.Fatal(err)
	}
	defer blob.Close()
	data, err := io.ReadAll(blob)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func sameTOC(tb testing.TB, want, got []byte) {
	tb.Helper()
	if diff := cmp.Diff(readTOC(tb, want), readTOC(tb, got), cmp.AllowUnexported(foreign.TOCEntry{})); diff != "" {
		tb.Errorf("TOC (-theirs +ours):\n%s", diff)
	}
}

func everything() []byte {
	long := strings.Repeat("directory/", 30)
	return testtree.Tree{
		testtree.Dir("d", 0o755, testtree.Xattr("user.a", "b\x00\xff"), testtree.Xattr("user.\"b\"", "c\"\n\\"), testtree.MTime(5)),
		testtree.File("d/empty", 0o600, ""),
		testtree.File("d/setuid", 0o4755, "contents", testtree.Owner(1, 1<<22), testtree.MTime(1_700_000_000)),
		testtree.Hardlink("d/linked", "d/setuid"), testtree.Hardlink("d/again", "d/linked"),
		testtree.Symlink("l", "../d"), testtree.Char("c", 0o600, 1, 3), testtree.Block("b", 0o660, 259, 70000),
		testtree.Whiteout("d/x"), testtree.Opaque("d"), testtree.FIFO("p", 0o600),
		testtree.Dir("d/sticky", 0o1777), testtree.Dir("d/setgid", 0o2755),
		testtree.File(long+"name", 0o644, "far below"),
		testtree.File("ünicode \"quoted\" <tag>\u2028\x01", 0o644, "x"),
		testtree.File("big", 0o644, testtree.Bytes(1, 100_000)),
		testtree.File("exact", 0o644, testtree.Text(2, 30_000)),
		testtree.File("512", 0o644, testtree.Text(3, 512)),
		testtree.File("zeros", 0o644, testtree.Zeros(70_001)),
	}.Tar(nil)
}

// TestAgainstBuild compares with the format's own package: the same TOC, and a tar stream with the same entries as the input.
func TestAgainstBuild(t *testing.T) {
	owned := func(uid, gid int, uname, gname, name string) tarEntry {
		e := file(name, name)
		e.Header.Uid, e.Header.Gid, e.Header.Uname, e.Header.Gname = uid, gid, uname, gname
		return e
	}
	pax := file("./pax", "pax")
	pax.Header.Format = tar.FormatPAX
	pax.Header.PAXRecords = map[string]string{"VENDOR.key": "kept", "SCHILY.xattr.user.x": "y", "LIBARCHIVE.xattr.user.x": "eQ"}
	pax.Header.ModTime = pax.Header.ModTime.AddDate(2000, 3, 4).Add(123456789)
	gnu := file(strings.Repeat("gnu", 80), "long name")
	gnu.Header.Format = tar.FormatGNU
	gnu.Header.Uid = 1 << 30
	for _, tt := range []struct {
		name    string
		archive []byte
	}{
		{"nothing", makeTar(t)},
		{"no bytes at all", nil},
		{"everything", everything()},
		{"owners", makeTar(t, owned(0, 0, "root", "root", "a"), owned(1, 0, "", "root", "b"), owned(1, 1, "daemon", "", "c"),
			owned(0, 1, "root", "wheel", "d"), owned(1, 1, "other", "wheel", "e"), owned(1, 1, "daemon", "\xff", "f"))},
		{"spellings", makeTar(t, dir("./"), dir("./usr/"), file("./usr/a", "a"), file("/usr/b", "b"), link("usr//c", "/usr/./b"),
			file("../../e", "e"))},
		{"formats", makeTar(t, pax, gnu)},
		{"own entries", makeTar(t, file("a", "a"), file(".prefetch.landmark", "xx"), file("./.no.prefetch.landmark", "y"),
			file("stargz.index.json", "{}"), file("b", "b"))},
		{"replaced", makeTar(t, dir("a"), owned(7, 7, "seven", "", "a/f"), file("a/g", strings.Repeat("g", 50_000)),
			owned(7, 7, "seven", "", "./a/f"), file("x", "first"), dir("a/"), symlink("x", "a"), file("a/g", "short"))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, chunk := range []int{0, 30_000, 1000} {
				blob, res := mustWrite(t, tt.archive, &estargz.Options{ChunkSize: chunk})
				sameTOC(t, buildForeign(t, tt.archive, foreign.WithChunkSize(chunk)), blob)
				got := check(t, blob, res)
				want := slices.DeleteFunc(readTar(t, bytes.NewReader(tt.archive)), func(e tarEntry) bool {
					return strings.HasSuffix(e.Header.Name, ".landmark") || e.Header.Name == foreign.TOCTarName
				})
				sameEntries(t, want, got)
			}
		})
	}
}

// TestTwice converts what it has made.
func TestTwice(t *testing.T) {
	archive := everything()
	blob, res := mustWrite(t, archive, nil)
	zr, err := gzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	again, second := mustWrite(t, stream, nil)
	if !bytes.Equal(blob, again) || second.Digest != res.Digest {
		t.Errorf("%s, then %s", res.Digest, second.Digest)
	}
}

func TestWorkers(t *testing.T) {
	var list testtree.Tree
	for i := range 400 {
		list = append(list, testtree.File(path.Join("d", string(rune('a'+i%26)), strings.Repeat("n", i%50+1)+string(rune('A'+i%7))+string(rune('a'+i/7))),
			0o644, testtree.Text(uint64(i), i*i%9000)))
	}
	list = append(list, testtree.File("large", 0o644, testtree.Bytes(9, 1_000_000)))
	target := strings.Repeat("t", 4000)
	for i := range 900 { // more headers in a row than a member may have
		list = append(list, testtree.Symlink(fmt.Sprint(i), target))
	}
	archive := list.Tar(nil)
	var first []byte
	for _, workers := range []int{1, 2, 17} {
		blob, res := mustWrite(t, archive, &estargz.Options{Workers: workers, ChunkSize: 300_000, Level: 1})
		if first == nil {
			first = blob
			check(t, blob, res)
		}
		if !bytes.Equal(first, blob) {
			t.Errorf("%d workers write another blob", workers)
		}
	}
}

func TestPrioritized(t *testing.T) {
	archive := makeTar(t, dir("a"), file("a/f", "f"), file("a/g", strings.Repeat("g", 5000)), dir("b"), dir("b/c"), link("b/c/l", "a/g"),
		link("m", "b/c/l"), file("z", "first"), file("b/c/x", "x"), file("z", "last"), file(".prefetch.landmark", "!"), dir("./"))
	for _, list := range [][]string{
		{"z"},
		{"/b/c/x", "a/f"},
		{"m"},
		{"../b/c/l", "b/c/l", "z"},
		{"/"},
		{"b"},
	} {
		blob, res := mustWrite(t, archive, &estargz.Options{Prioritized: list, ChunkSize: 1000})
		sameTOC(t, buildForeign(t, archive, foreign.WithPrioritizedFiles(list), foreign.WithChunkSize(1000)), blob)
		entries := check(t, blob, res)
		if len(res.NotFound) > 0 || len(entries) != 10 {
			t.Errorf("%q: not found %q, %d entries", list, res.NotFound, len(entries))
		}
		for _, workers := range []int{1, 4} {
			// Not an io.ReadSeeker.
			var spooled bytes.Buffer
			dir := t.TempDir()
			_, err := estargz.Write(t.Context(), &spooled, io.MultiReader(bytes.NewReader(archive)),
				&estargz.Options{Prioritized: list, ChunkSize: 1000, Workers: workers, SpoolDir: dir})
			if err != nil || !bytes.Equal(spooled.Bytes(), blob) {
				t.Errorf("%q by way of a file: another blob, %v", list, err)
			}
		}
	}
}

// TestPrioritizedPosition begins in the middle of a stream that can be sought in.
func TestPrioritizedPosition(t *testing.T) {
	archive := everything()
	o := &estargz.Options{Prioritized: []string{"big", "nowhere", "d/x", ".prefetch.landmark", "directory"}}
	want, _ := mustWrite(t, archive, o)
	r := bytes.NewReader(append([]byte("prefix"), archive...))
	if _, err := r.Seek(6, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	var blob bytes.Buffer
	res, err := estargz.Write(t.Context(), &blob, r, o)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(blob.Bytes(), want) {
		t.Error("another blob")
	}
	if diff := cmp.Diff([]string{"nowhere", "d/x", ".prefetch.landmark", "directory"}, res.NotFound); diff != "" {
		t.Errorf("not found (-want +got):\n%s", diff)
	}
	_, err = estargz.Write(t.Context(), io.Discard, io.MultiReader(bytes.NewReader(archive)), o)
	if err == nil || !strings.Contains(err.Error(), "SpoolDir") {
		t.Errorf("error %v", err)
	}
}

// TestNormalized has what is not written as it was read.
func TestNormalized(t *testing.T) {
	global := tarEntry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"comment": "c"}}}
	contiguous := file("contiguous", "c")
	contiguous.Header.Typeflag = tar.TypeCont
	archive := makeTar(t, global, contiguous)
	blob, res := mustWrite(t, append(archive, "behind the end"...), nil)
	got := check(t, blob, res)
	if len(got) != 1 || got[0].Header.Typeflag != tar.TypeReg || got[0].Data != "c" {
		t.Errorf("%+v", got)
	}
	// To some a regular file whose name ends in a slash is a directory.
	slash := makeTar(t, file("a_", "a"))
	slash[1] = '/'
	fixSum(slash)
	blob, res = mustWrite(t, slash, nil)
	if got := check(t, blob, res); len(got) != 1 || got[0].Header.Name != "a" {
		t.Errorf("%+v", got)
	}
}

// fixSum sets the checksum of the first header.
func fixSum(b []byte) {
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	const digits = "01234567"
	for i := range 6 {
		b[148+i] = digits[sum>>(3*(5-i))&7]
	}
	b[154] = 0
}

func TestFooter(t *testing.T) {
	blob, _ := mustWrite(t, everything(), nil)
	offset, size, err := foreign.OpenFooter(io.NewSectionReader(bytes.NewReader(blob), 0, int64(len(blob))))
	if err != nil || size != foreign.FooterSize {
		t.Fatal(size, err)
	}
	// The TOC has a member to itself.
	zr, err := gzip.NewReader(bytes.NewReader(blob[offset:]))
	if err != nil {
		t.Fatal(err)
	}
	zr.Multistream(false)
	if list := readTar(t, zr); len(list) != 1 || list[0].Header.Name != foreign.TOCTarName {
		t.Errorf("the last member has %d entries", len(list))
	}
	extra := fmt.Appendf([]byte("SG\x16\x00"), "%016xSTARGZ", offset)
	if want := foreign.CreateGzipFooter(extra); !bytes.HasSuffix(blob, want) {
		t.Errorf("footer %x, want %x", blob[len(blob)-len(want):], want)
	}
}

// TestSize holds the default level to its promise, on this module's sources and on the program that tests it.
func TestSize(t *testing.T) {
	oracle.Short(t, "compresses as slowly as the format's own package")
	var sources []tarEntry
	names, err := filepath.Glob("../../../*/*.go")
	if err != nil || len(names) < 50 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, file(name, string(data)))
	}
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range [][]tarEntry{sources, {file("program", string(program[:min(len(program), 2<<20)]))}} {
		archive := makeTar(t, list...)
		_, res := mustWrite(t, archive, nil)
		theirs := len(buildForeign(t, archive))
		ratio := float64(res.Size) / float64(theirs)
		t.Logf("%d bytes, theirs are %d: %.4f", res.Size, theirs, ratio)
		if ratio > 1.03 {
			t.Errorf("%.4f times the size", ratio)
		}
	}
}
