package estargz_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"hpcimg/convert/internal/estargz"
	"hpcimg/convert/internal/layer"
	"hpcimg/internal/testtree"
)

// FuzzWrite wants of any stream: an error of a documented kind, or a blob that the format's own package opens, verifies and
// reads, with a tar stream whose entries are those of the input, the same with any number of workers; and, with files that
// come first, the same entries in another order.
func FuzzWrite(f *testing.F) {
	small := testtree.Tree{
		testtree.Dir("d", 0o755, testtree.Xattr("user.a", "b")), testtree.File("d/f", 0o4755, "contents", testtree.Owner(1, 1<<22)),
		testtree.Hardlink("d/g", "d/f"), testtree.Symlink("l", "../d"), testtree.Char("c", 0o600, 1, 3), testtree.Whiteout("d/x"),
		testtree.FIFO("p", 0o600), testtree.File(strings.Repeat("long/", 60)+"name", 0o644, ""), testtree.File("d/\u00fc", 0o644, "twice"),
	}
	f.Add(small.Tar(nil), uint16(3), "d/g")
	f.Add(small.Tar(&testtree.TarOptions{Format: tar.FormatPAX, Prefix: "./"}), uint16(0), "d/x")
	f.Add(small[1:].Tar(&testtree.TarOptions{Format: tar.FormatGNU}), uint16(8), "")
	f.Add(makeTar(f, dir("a"), file("a/f", "f"), link("l", "a/f"), file("a/g", "ggg"), dir("a"), file("a/g", "h")), uint16(2), "l")
	f.Add(makeTar(f, file("a", "a"), file(".prefetch.landmark", "xx"), file("stargz.index.json", "{}"), file("b/./c", "b")), uint16(1), "a")
	for _, archive := range sparseSeeds(f) {
		f.Add(archive, uint16(60_000), "sparse")
	}
	f.Fuzz(func(t *testing.T, archive []byte, chunk uint16, first string) {
		repair(archive)
		o := &estargz.Options{ChunkSize: int(chunk), Workers: 1, Level: 1, Limits: estargz.Limits{Entries: 2000, Bytes: 4 << 20, Text: 1 << 20}}
		blob, res, err := write(archive, o)
		if err != nil {
			documented(t, err)
			return
		}
		got := check(t, blob, res)
		want := expected(t, archive)
		sameEntries(t, want, got)
		o.Workers = 3
		if again, _ := mustWrite(t, archive, o); !bytes.Equal(again, blob) {
			t.Error("another blob with three workers")
		}
		o.Prioritized = []string{first}
		sorted, res := mustWrite(t, archive, o)
		got = check(t, sorted, res)
		want = final(want)
		order := func(a, b tarEntry) int {
			return strings.Compare(path.Clean("/"+a.Header.Name), path.Clean("/"+b.Header.Name))
		}
		slices.SortFunc(got, order)
		slices.SortFunc(want, order)
		sameEntries(t, want, got)
	})
}

// repair makes the checksums of headers right, without which no change of one would get past them.
func repair(archive []byte) {
	for ; len(archive) >= 512; archive = archive[512:] {
		if string(archive[257:262]) == "ustar" {
			fixSum(archive)
		}
	}
}

func documented(t *testing.T, err error) {
	t.Helper()
	for _, want := range []error{layer.ErrFormat, layer.ErrLimit, layer.ErrUnsafePath, layer.ErrHardLink, errors.ErrUnsupported} {
		if errors.Is(err, want) {
			return
		}
	}
	t.Errorf("undocumented error %v", err)
}

// expected are the entries of an archive as the blob is to have them. What is not compared is the spelling of a header.
func expected(t *testing.T, archive []byte) []tarEntry {
	t.Helper()
	var list []tarEntry
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		switch path.Clean("/" + h.Name)[1:] {
		case ".prefetch.landmark", ".no.prefetch.landmark", "stargz.index.json":
			continue
		}
		switch h.Typeflag {
		case tar.TypeXGlobalHeader:
			continue
		case tar.TypeCont, tar.TypeGNUSparse:
			h.Typeflag = tar.TypeReg
		}
		maps.DeleteFunc(h.PAXRecords, func(key, _ string) bool { return strings.HasPrefix(key, "GNU.sparse.") })
		if h.Typeflag == tar.TypeReg {
			h.Name = strings.TrimRight(h.Name, "/")
		}
		list = append(list, tarEntry{*h, string(data)})
	}
}
