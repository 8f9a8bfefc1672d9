//go:build linux

package conformance_test

import (
	"errors"
	"flag"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hpcimg/examples/bench/images"
	"hpcimg/image"
	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
)

var long = flag.Bool("long", false, "all real images, not only the two smaller ones; 200 kills instead of a few; and the like")

// realImage returns the OCI layout of an image that package images makes, once per machine.
func realImage(t *testing.T, name string) (layout string) {
	t.Helper()
	oracle.Root(t)
	oracle.Once(t)
	oracle.Short(t, "makes and converts a whole distribution")
	oracle.Tool(t, "debootstrap")
	dir, err := images.DefaultDir()
	if err != nil {
		t.Fatal(err)
	}
	layout, err = images.Make(t.Context(), dir, name, io.Discard)
	if errors.Is(err, images.ErrInstall) {
		oracle.Need(t, oracle.NeedNetwork, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return layout
}

// unpack has umoci unpack an image of a layout, and returns the root file system and when that began: umoci sets the times of
// directories that no layer has to what the clock says.
func unpack(t *testing.T, layout, tag string) (rootfs string, begin time.Time) {
	t.Helper()
	begin = time.Now()
	rootfs = filepath.Join(t.TempDir(), "rootfs")
	oracle.Run(t, "umoci", "raw", "unpack", "--image", layout+":"+tag, rootfs)
	return rootfs, begin
}

// settled returns want with the times from got where umoci makes them up: of directories that no layer has, and of the root.
func settled(want, got testtree.Listing, begin time.Time) testtree.Listing {
	out := maps.Clone(want)
	for p, w := range want {
		if g, ok := got[p]; ok && w.Mode.IsDir() && (w.ModTime >= begin.Unix() || p == ".") {
			w.ModTime = g.ModTime
			out[p] = w
		}
	}
	return out
}

// withLayer returns an image of a layout with one more layer on top.
func withLayer(t *testing.T, img *image.Image, top testtree.Tree) *image.Image {
	t.Helper()
	var layers []image.LayerInput
	for _, l := range img.Layers() {
		layers = append(layers, image.LayerInput{
			Blob:        func() (io.ReadCloser, error) { return l.Open(t.Context()) },
			Compression: l.Compression(),
		})
	}
	config := img.Config()
	config.History = nil
	made, err := image.Build(config, append(layers, image.LayerInput{Tar: top.Tar(nil)})...)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// openImage opens an image of a layout.
func openImage(t testing.TB, layout, tag string) *image.Image {
	t.Helper()
	img, err := image.Open(t.Context(), images.Reference(layout, tag), nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// onlyFiles makes sure that a directory has the named files and nothing else: nobody has left anything there.
func onlyFiles(t testing.TB, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		found = append(found, e.Name())
	}
	if got, want := strings.Join(found, " "), strings.Join(names, " "); got != want {
		t.Errorf("%s has [%s], want [%s]", filepath.Base(dir), got, want)
	}
}
