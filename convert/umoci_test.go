package convert_test

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

type tree = testtree.Tree

// build makes an image of layers, bottom first.
func build(t testing.TB, layers ...tree) *image.Image {
	t.Helper()
	img, err := image.Build(image.Config{}, layerInputs(layers...)...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func layerInputs(layers ...tree) []image.LayerInput {
	inputs := make([]image.LayerInput, len(layers))
	for i, l := range layers {
		inputs[i] = image.LayerInput{Tar: l.Tar(nil)}
	}
	return inputs
}

// squash converts an image to a squashfs and lists it.
func squash(t testing.TB, img *image.Image, opts *convert.Options) (testtree.Listing, *convert.Result, error) {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "image.sqfs")
	result, err := convert.Convert(t.Context(), convert.FromImage(img), dst, opts)
	if err != nil {
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

// unpack has umoci unpack an image. ok is false if umoci refuses it.
func unpack(t testing.TB, img *image.Image) (list testtree.Listing, ok bool, output string) {
	t.Helper()
	umoci := oracle.Tool(t, "umoci")
	oracle.Root(t)
	dir := t.TempDir()
	layout := filepath.Join(dir, "layout")
	if _, err := image.WriteLayout(t.Context(), layout, img, "t"); err != nil {
		t.Fatal(err)
	}
	rootfs := filepath.Join(dir, "rootfs")
	out, err := command(t, umoci, "raw", "unpack", "--image", layout+":t", rootfs)
	if err != nil {
		return nil, false, out
	}
	list, err = testtree.Walk(rootfs)
	if err != nil {
		t.Fatal(err)
	}
	return list, true, out
}

// settle takes out of both listings what depends on when umoci has run.
func settle(want, got testtree.Listing, begin time.Time) {
	for p, w := range want {
		g, ok := got[p]
		if !ok {
			continue
		}
		if w.Mode.IsDir() && w.ModTime >= begin.Unix() {
			w.ModTime, g.ModTime = 0, 0
		}
		want[p], got[p] = w, g
	}
}

func compareWithUmoci(t testing.TB, img *image.Image) {
	t.Helper()
	begin := time.Now()
	want, ok, out := unpack(t, img)
	got, _, err := squash(t, img, &convert.Options{Compression: squashfs.CompressionNone})
	if !ok || err != nil {
		if ok || err == nil {
			t.Errorf("umoci: %t %s; convert: %v", ok, out, err)
		}
		return
	}
	settle(want, got, begin)
	if diff := testtree.Diff(want, got, nil); diff != "" {
		t.Errorf("(-umoci +convert)\n%s", diff)
	}
}

func command(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	return string(out), err
}
