package image_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"hpcimg/image"
	"hpcimg/internal/oracle"
)

// skopeo copies between its transports.
func skopeo(t *testing.T, args ...string) {
	t.Helper()
	oracle.Run(t, "skopeo", append([]string{"--insecure-policy", "copy", "--quiet"}, args...)...)
}

// TestSkopeoForms: whatever form skopeo gives our image, it stays the same image.
func TestSkopeoForms(t *testing.T) {
	dir := t.TempDir()
	layout := filepath.Join(dir, "layout")
	all := sample(t)
	plain, err := image.Build(all.Config(), image.LayerInput{Tar: layerTar(t, "a", "first")}, image.LayerInput{Tar: layerTar(t, "b", "second")})
	if err != nil {
		t.Fatal(err)
	}
	for tag, img := range map[string]*image.Image{"all": all, "plain": plain} {
		if _, err := image.WriteLayout(t.Context(), layout, img, tag); err != nil {
			t.Fatal(err)
		}
	}
	for _, form := range []string{"oci:" + dir + "/copy:v2", "oci-archive:" + dir + "/oci.tar:v2"} {
		skopeo(t, "--preserve-digests", "oci:"+layout+":all", form)
		got, err := image.Open(t.Context(), form, nil)
		if err != nil {
			t.Fatal(err)
		}
		sameImage(t, got, all)
	}

	// A Docker archive has no zstd, and skopeo decompresses what it puts there.
	form := "docker-archive:" + dir + "/docker.tar:example.org/sample:v2"
	skopeo(t, "oci:"+layout+":plain", form)
	got, err := image.Open(t.Context(), form, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range got.Layers() {
		if want := layerTar(t, []string{"a", "b"}[i], []string{"first", "second"}[i]); !bytes.Equal(readLayer(t, l), want) {
			t.Errorf("layer %d differs", i)
		}
		if l.DiffID != plain.Layers()[i].DiffID {
			t.Errorf("diffID of layer %d differs", i)
		}
	}
	if env := got.Config().Config.Env; len(env) != 1 || env[0] != "PATH=/usr/bin" {
		t.Errorf("environment %v", env)
	}
}

// TestUmociLayout reads what umoci makes, and umoci what we make.
func TestUmociLayout(t *testing.T) {
	run := func(args ...string) string {
		t.Helper()
		return oracle.Run(t, "umoci", args...)
	}
	dir := filepath.Join(t.TempDir(), "layout")
	run("init", "--layout", dir)
	run("new", "--image", dir+":empty")
	run("config", "--image", dir+":empty", "--tag", "set", "--config.env", "A=b", "--config.workingdir", "/w")
	img, err := image.Open(t.Context(), "oci:"+dir+":set", nil)
	if err != nil {
		t.Fatal(err)
	}
	if c := img.Config().Config; len(c.Env) != 1 || c.Env[0] != "A=b" || c.WorkingDir != "/w" {
		t.Errorf("config %+v", c)
	}

	if _, err := image.WriteLayout(t.Context(), dir, sample(t), "ours"); err != nil {
		t.Fatal(err)
	}
	if list := strings.Fields(run("list", "--layout", dir)); len(list) != 3 {
		t.Errorf("umoci lists %v", list)
	}
	if stat := run("stat", "--image", dir+":ours"); !strings.Contains(stat, "LAYER") {
		t.Errorf("umoci stat says %s", stat)
	}
	run("config", "--image", dir+":ours", "--tag", "changed", "--config.user", "1000")
	changed, err := image.Open(t.Context(), "oci:"+dir+":changed", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(changed.Layers()) != 3 || changed.Config().Config.User != "1000" {
		t.Errorf("%d layers, user %q", len(changed.Layers()), changed.Config().Config.User)
	}
}
