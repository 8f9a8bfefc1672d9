package image_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/image"
	"hpcimg/image/registry"
)

// layerTar is a layer of one file.
func layerTar(t testing.TB, name, data string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sample is an image with a layer of each compression.
func sample(t testing.TB) *image.Image {
	t.Helper()
	img, err := image.Build(
		image.Config{Config: ocispec.ImageConfig{Env: []string{"PATH=/usr/bin"}, Cmd: []string{"sh"}}},
		image.LayerInput{Tar: layerTar(t, "a", "first")},
		image.LayerInput{Tar: layerTar(t, "b", strings.Repeat("second ", 1000)), Compression: image.CompressionZstd},
		image.LayerInput{Tar: layerTar(t, "c", "third"), Compression: image.CompressionNone},
	)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// newRegistry starts a registry in this process and returns its host and port.
func newRegistry(t testing.TB) string {
	t.Helper()
	s := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// sameImage compares documents and reads and compares every layer.
func sameImage(t *testing.T, got, want *image.Image) {
	t.Helper()
	if got.Descriptor().Digest != want.Descriptor().Digest {
		t.Errorf("manifest is %s, want %s", got.Descriptor().Digest, want.Descriptor().Digest)
	}
	if !bytes.Equal(got.RawConfig(), want.RawConfig()) {
		t.Errorf("config is %s, want %s", got.RawConfig(), want.RawConfig())
	}
	if len(got.Layers()) != len(want.Layers()) {
		t.Fatalf("%d layers, want %d", len(got.Layers()), len(want.Layers()))
	}
	for i, l := range got.Layers() {
		if !bytes.Equal(readLayer(t, l), readLayer(t, want.Layers()[i])) {
			t.Errorf("layer %d differs", i)
		}
		if l.DiffID != want.Layers()[i].DiffID {
			t.Errorf("diffID of layer %d differs", i)
		}
	}
}

func readLayer(t *testing.T, l image.Layer) []byte {
	t.Helper()
	rc, err := l.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOpenRegistry(t *testing.T) {
	host, want := newRegistry(t), sample(t)
	ref := "docker://" + host + "/tools/sample:v1"
	d, err := registry.Push(t.Context(), want, ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := image.Open(t.Context(), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	sameImage(t, got, want)
	if got.Reference().String() != ref {
		t.Errorf("Reference = %s, want %s", got.Reference(), ref)
	}
	byDigest, err := image.Open(t.Context(), "docker://"+host+"/tools/sample@"+d.Digest.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	sameImage(t, byDigest, want)
	for _, missing := range []string{"/tools/sample:v2", "/tools/other:v1"} {
		_, err := image.Open(t.Context(), "docker://"+host+missing, nil)
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), host+missing) {
			t.Errorf("%s: %v, want fs.ErrNotExist that names it", missing, err)
		}
	}
}

func TestOpenLayout(t *testing.T) {
	dir, want := t.TempDir(), sample(t)
	if _, err := image.WriteLayout(t.Context(), dir, want, "v1"); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"oci:" + dir, "oci:" + dir + ":v1", "oci:" + dir + "@" + want.Descriptor().Digest.String()} {
		got, err := image.Open(t.Context(), ref, nil)
		if err != nil {
			t.Fatal(err)
		}
		sameImage(t, got, want)
	}
	if _, err := image.Open(t.Context(), "oci:"+dir+":v2", nil); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "v1") {
		t.Errorf("missing tag: %v, want fs.ErrNotExist that lists the tags", err)
	}
}
