package convert_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/image/cache"
	"hpcimg/internal/testtree"
	"hpcimg/sif"
	"hpcimg/squashfs"
)

// versions are the first n of some images as they follow one another: the last layer changes, then a layer hides more of the base, then the base is built anew,
// with the same files at another time and one more.
func versions(t testing.TB, n int) (all []*image.Image) {
	t.Helper()
	base := func(when int64, extra ...testtree.Entry) tree {
		b := tree{dir("bin", 0o755), testtree.File("bin/sh", 0o755, "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00 and so on")}
		for i := range 60 {
			b = append(b, testtree.File(fmt.Sprintf("usr/lib/lib%d.so", i), 0o644, testtree.Text(uint64(i), 30*i*i), testtree.MTime(when)))
		}
		return append(b, extra...)
	}
	middle := tree{hide("usr/lib/lib59.so"), testtree.File("opt/app", 0o755, testtree.Text(1000, 700_000)), symlink("lib", "usr/lib")}
	for _, layers := range [][]tree{
		{base(1), middle, {file("version.txt", "1\n")}},
		{base(1), middle, {file("version.txt", "2\n")}},
		{base(1), middle, {file("version.txt", "3\n"), hide("usr/lib/lib50.so"), file("lib/lib7.so", "by way of a link")}},
		{base(2, file("zzz", "new")), middle, {file("version.txt", "4\n")}},
		{base(1), middle, {file("version.txt", "5\n")}, {}},
	}[:n] {
		all = append(all, build(t, layers...))
	}
	return all
}

func convertTo(t testing.TB, img *image.Image, opts convert.Options) (string, *convert.Result) {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "image.sif")
	result, err := convert.Convert(t.Context(), convert.FromImage(img), dst, &opts)
	if err != nil {
		t.Fatal(err)
	}
	return dst, result
}

// TestReuse converts versions with what is left of those before, in every way: the bytes must be those of a conversion that
// knows nothing.
func TestReuse(t *testing.T) {
	imgs := versions(t, 5)
	for _, comp := range []squashfs.Compression{squashfs.CompressionGzip, squashfs.CompressionZstd} {
		var want []string
		for _, img := range imgs {
			path, result := convertTo(t, img, convert.Options{Compression: comp, Workers: 1})
			want = append(want, sum(t, path))
			for _, l := range result.Layers {
				if l.Index != convert.OriginSource || l.SegmentFrom != convert.OriginSource {
					t.Errorf("layer from %s and %s", l.Index, l.SegmentFrom)
				}
			}
		}
		check := func(what string, i int, path string) {
			t.Helper()
			if got := sum(t, path); got != want[i] {
				t.Errorf("%s %s: version %d has other bytes", comp, what, i+1)
			}
		}
		warm, err := cache.Open(filepath.Join(t.TempDir(), "cache"), nil)
		if err != nil {
			t.Fatal(err)
		}
		last := ""
		for i, img := range imgs {
			opts := convert.Options{Compression: comp, Workers: 3}
			if last != "" {
				opts.Reuse = []string{last}
			}
			path, result := convertTo(t, img, opts)
			check("with the version before", i, path)
			checkOrigins(t, "reuse", i, result, convert.OriginReuse)
			last = path

			opts = convert.Options{Compression: comp, Cache: warm}
			path, result = convertTo(t, img, opts)
			check("with a cache", i, path)
			checkOrigins(t, "cache", i, result, convert.OriginCache)
			path, result = convertTo(t, img, opts)
			check("with a cache, again", i, path)
			for n, l := range result.Layers {
				if l.Index != convert.OriginCache || l.SegmentFrom != convert.OriginCache || l.Repacked {
					t.Errorf("version %d again, layer %d: from %s and %s, repacked %t", i+1, n, l.Index, l.SegmentFrom, l.Repacked)
				}
			}
		}
	}
}

// checkOrigins looks where the layers of a version come from when those before it are remembered.
func checkOrigins(t *testing.T, what string, version int, r *convert.Result, from convert.Origin) {
	t.Helper()
	base, middle := r.Layers[0], r.Layers[1]
	switch version {
	case 0:
		return
	case 3: // new base
		if base.Index != convert.OriginSource || middle.Index != from {
			t.Errorf("%s, version 4: base from %s, middle from %s", what, base.Index, middle.Index)
		}
		if from == convert.OriginReuse && base.Reused < 100_000 {
			t.Errorf("%s, version 4: %d bytes reused", what, base.Reused)
		}
	case 4: // after the version with the new base
		if from == convert.OriginCache && (base.Index != from || base.SegmentFrom != from) {
			t.Errorf("%s, version 5: base from %s and %s", what, base.Index, base.SegmentFrom)
		}
	default:
		if base.Index != from || base.SegmentFrom != from || middle.SegmentFrom != from {
			t.Errorf("%s, version %d: base from %s and %s, middle from %s", what, version+1, base.Index, base.SegmentFrom, middle.SegmentFrom)
		}
		if want := version == 2; base.Repacked != want { // it hides more
			t.Errorf("%s, version %d: repacked = %t", what, version+1, base.Repacked)
		}
	}
}

// TestReuseOfDamaged gives images that are not what they were.
func TestReuseOfDamaged(t *testing.T) {
	imgs := versions(t, 2)
	first, _ := convertTo(t, imgs[0], convert.Options{})
	second, _ := convertTo(t, imgs[1], convert.Options{})
	want := sum(t, second)
	good, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	f, err := sif.Open(first)
	if err != nil {
		t.Fatal(err)
	}
	p, err := f.Primary()
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	damage := func(at int64, n int) []byte {
		b := append([]byte(nil), good...)
		for i := range n {
			b[at+int64(i)] ^= 0x41
		}
		return b
	}
	cases := map[string][]byte{
		"flipped bit in a segment":   damage(p.Offset+20_000, 1),
		"flipped bytes at its start": damage(p.Offset+4096, 200),
		"flipped bits in the index":  damage(p.Offset+p.Size+100, 3),
		"no SIF":                     []byte("nothing of the sort"),
		"cut":                        good[:p.Offset+p.Size/2],
		"empty":                      nil,
	}
	for name, data := range cases {
		hint := filepath.Join(t.TempDir(), "old.sif")
		if err := os.WriteFile(hint, data, 0o600); err != nil {
			t.Fatal(err)
		}
		path, _ := convertTo(t, imgs[1], convert.Options{Reuse: []string{hint}})
		if sum(t, path) != want {
			t.Errorf("%s: other bytes", name)
		}
	}
	for name, hint := range map[string]string{"directory": t.TempDir(), "missing": filepath.Join(t.TempDir(), "none")} {
		path, _ := convertTo(t, imgs[1], convert.Options{Reuse: []string{hint}})
		if sum(t, path) != want {
			t.Errorf("%s: other bytes", name)
		}
	}
	if err := os.Chmod(first, 0o666); err != nil {
		t.Fatal(err)
	}
	path, result := convertTo(t, imgs[1], convert.Options{Reuse: []string{first}})
	if sum(t, path) != want || result.Layers[0].Index != convert.OriginSource {
		t.Error("an image that anybody may write to has been trusted")
	}
}

// TestNoReuse leaves the index out.
func TestNoReuse(t *testing.T) {
	path, _ := convertTo(t, sample(t), convert.Options{SIF: convert.SIFOptions{NoReuse: true}})
	f, err := sif.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, o := range f.Objects() {
		if o.Name == convert.ReuseObject {
			t.Error("it is there")
		}
	}
}
