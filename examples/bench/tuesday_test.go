package main

import (
	"bytes"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hpcimg/examples/bench/images"
	"hpcimg/image"
	"hpcimg/internal/testtree"
)

// versionsOfSomething writes what package images would, only smaller.
func versionsOfSomething(t *testing.T) (layout string) {
	t.Helper()
	layout = filepath.Join(t.TempDir(), "layout")
	shared := testtree.Tree{
		testtree.Dir("usr", 0o755), testtree.File("usr/text", 0o644, testtree.Text(1, 300_000)),
		testtree.File("usr/data", 0o644, testtree.Bytes(1, 100_000)), testtree.Hardlink("usr/data-too", "usr/data"),
	}
	for _, version := range append(images.Versions(), images.Rebuilt) {
		if version == images.Rebuilt {
			shared[1].MTime++
		}
		top := testtree.Tree{testtree.File("version.txt", 0o644, version)}
		img, err := image.Build(image.Config{}, image.LayerInput{Tar: shared.Tar(nil)}, image.LayerInput{Tar: top.Tar(nil)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := image.WriteLayout(t.Context(), layout, img, version); err != nil {
			t.Fatal(err)
		}
	}
	return layout
}

func TestTuesday(t *testing.T) {
	tmp := t.TempDir()
	o := tuesdayFlags{dir: tmp, places: []string{placeDisk}, versions: 3}
	b := tuesday{tuesdayFlags: o, stderr: io.Discard}
	if err := b.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	in, err := b.lookAt(t.Context(), "something", versionsOfSomething(t))
	if err != nil {
		t.Fatal(err)
	}
	if in.Layers != 2 || in.Visible < 400_000 || in.Visible >= 500_000 || in.Tar < in.Visible {
		t.Errorf("%+v", in)
	}
	var r tuesdayReport
	for _, compression := range []string{"gzip", "zstd"} {
		table, err := b.hold(t.Context(), in, compression)
		if err != nil {
			t.Fatal(err)
		}
		r.Tables = append(r.Tables, *table)
	}
	if err := b.close(); err != nil {
		t.Fatal(err)
	}
	checkEmpty(t, tmp)
	for _, table := range r.Tables {
		if len(table.Results) != 3 {
			t.Fatalf("%d results", len(table.Results))
		}
		for _, result := range table.Results {
			want := 4
			if strings.HasSuffix(result.Setting, "no cache") {
				want = 3 // a layer built again is like any other
			}
			if len(result.Runs) != want || result.first().CPU <= 0 || result.first().Size <= 0 {
				t.Errorf("%+v", result)
			}
			if left := result.Runs[want-1].Left; (left > 0) != strings.HasSuffix(result.Setting, ", cache") {
				t.Errorf("%s leaves %d bytes", result.Setting, left)
			}
		}
	}
	checkReport(t, &r)
}

func checkReport(t *testing.T, r *tuesdayReport) {
	t.Helper()
	var text bytes.Buffer
	if err := r.write(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"### something, zstd", "| hpcimg", "gzip 6, reuse", "| v3 s"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, text.String())
		}
	}
	dir := filepath.Join(t.TempDir(), "plots")
	if err := r.plot(dir); err != nil {
		t.Fatal(err)
	}
	plot, err := os.ReadFile(filepath.Join(dir, "patch-tuesday-something-gzip.svg"))
	if err != nil {
		t.Fatal(err)
	}
	if err := xml.Unmarshal(plot, new(struct{})); err != nil {
		t.Errorf("the plot: %v", err)
	}
	if n := bytes.Count(plot, []byte("<rect")); n != 1+3*3 {
		t.Errorf("%d rectangles for three bars of three parts", n)
	}
}

func TestTicks(t *testing.T) {
	for _, tt := range []struct{ most, want float64 }{{0, 1}, {0.3, 0.05}, {5, 1}, {43, 10}, {190, 50}, {1000, 200}} {
		if got := tickOf(tt.most); got < tt.want*0.999 || got > tt.want*1.001 {
			t.Errorf("for %g: %g, want %g", tt.most, got, tt.want)
		}
	}
}
