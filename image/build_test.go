package image_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/image"
)

func TestBuild(t *testing.T) {
	img := sample(t)
	want := []image.Compression{image.CompressionGzip, image.CompressionZstd, image.CompressionNone}
	for i, l := range img.Layers() {
		if l.Compression() != want[i] {
			t.Errorf("layer %d is %v, want %v", i, l.Compression(), want[i])
		}
	}
	if d := digest.FromBytes(readLayer(t, img.Layers()[2])); d != img.Layers()[2].DiffID {
		t.Errorf("uncompressed layer has digest %s, diffID %s", d, img.Layers()[2].DiffID)
	}
	if again := sample(t); again.Descriptor().Digest != img.Descriptor().Digest {
		t.Error("the same input built another image")
	}
	if p := img.Platform(); p.OS != "linux" || p.Architecture == "" {
		t.Errorf("platform %+v", p)
	}
	if img.Config().Config.Env[0] != "PATH=/usr/bin" {
		t.Errorf("config %+v", img.Config())
	}
}

func TestBuildFromBlobs(t *testing.T) {
	from := sample(t)
	var inputs []image.LayerInput
	for _, l := range from.Layers() {
		inputs = append(inputs, image.LayerInput{Blob: func() (io.ReadCloser, error) { return l.Open(t.Context()) }})
	}
	img, err := image.Build(from.Config(), inputs...)
	if err != nil {
		t.Fatal(err)
	}
	sameImage(t, img, from)
}

func TestBuildErrors(t *testing.T) {
	blob := func(s string) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(s)), nil }
	}
	for _, tc := range []struct {
		name  string
		in    image.LayerInput
		wants error
	}{
		{"nothing", image.LayerInput{}, nil},
		{"unknown compression", image.LayerInput{Tar: []byte{}, Compression: 99}, errors.ErrUnsupported},
		{"not gzip", image.LayerInput{Blob: blob("hello"), Compression: image.CompressionGzip}, nil},
		{"not zstd", image.LayerInput{Blob: blob("hello"), Compression: image.CompressionZstd}, nil},
		{"missing", image.LayerInput{Blob: func() (io.ReadCloser, error) { return nil, os.ErrNotExist }}, os.ErrNotExist},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := image.Build(image.Config{}, tc.in)
			if err == nil || (tc.wants != nil && !errors.Is(err, tc.wants)) {
				t.Errorf("got %v, want %v", err, tc.wants)
			}
		})
	}
	_, err := image.Build(image.Config{Config: ocispec.ImageConfig{Env: []string{"=x"}}})
	if !errors.Is(err, image.ErrFormat) {
		t.Errorf("bad environment: %v", err)
	}
}

func TestImageWithoutLayers(t *testing.T) {
	img, err := image.Build(image.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(img.RawManifest(), []byte(`"layers":[]`)) || !bytes.Contains(img.RawConfig(), []byte(`"diff_ids":[]`)) {
		t.Errorf("documents %s %s", img.RawManifest(), img.RawConfig())
	}
}

// TestWriteLayoutTogether: writers that share a layout lose nothing of each other, and leave nothing behind.
func TestWriteLayoutTogether(t *testing.T) {
	dir := t.TempDir()
	const writers = 12
	tags := strings.Split("abcdefghijkl", "")
	var images []*image.Image
	for i := range writers {
		img, err := image.Build(image.Config{Author: tags[i]}, image.LayerInput{Tar: layerTar(t, "shared", "x")})
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, img)
	}
	var wg sync.WaitGroup
	for i, img := range images {
		wg.Go(func() {
			if _, err := image.WriteLayout(t.Context(), dir, img, tags[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, want := range images {
		got, err := image.Open(t.Context(), "oci:"+dir+":"+tags[i], nil)
		if err != nil {
			t.Fatal(err)
		}
		sameImage(t, got, want)
	}
	names, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(names) != 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	blobs, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	if err != nil || len(blobs) != 2*writers+1 {
		t.Errorf("%d blobs, %v; want a shared layer and two documents for each image", len(blobs), err)
	}
}

func TestWriteLayoutMovesTag(t *testing.T) {
	dir := t.TempDir()
	first, err := image.Build(image.Config{Author: "first"})
	if err != nil {
		t.Fatal(err)
	}
	second, err := image.Build(image.Config{Author: "second"})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		img *image.Image
		tag string
	}{{first, "v1"}, {first, "v1"}, {first, ""}, {second, "v1"}, {second, "v2"}} {
		if _, err := image.WriteLayout(t.Context(), dir, step.img, step.tag); err != nil {
			t.Fatal(err)
		}
	}
	for ref, want := range map[string]*image.Image{
		":v1": second, ":v2": second, "@" + first.Descriptor().Digest.String(): first,
	} {
		got, err := image.Open(t.Context(), "oci:"+dir+ref, nil)
		if err != nil {
			t.Fatal(err)
		}
		sameImage(t, got, want)
	}
	if _, err := image.Open(t.Context(), "oci:"+dir, nil); !errors.Is(err, image.ErrReference) || !strings.Contains(err.Error(), "v1, v2") {
		t.Errorf("no tag: %v, want ErrReference that lists v1 and v2", err)
	}
}

// TestWriteLayoutRepairs: a blob of the wrong size, such as another tool may leave after a crash, is written again.
func TestWriteLayoutRepairs(t *testing.T) {
	dir, img := t.TempDir(), sample(t)
	blob := filepath.Join(dir, "blobs", "sha256", img.Layers()[0].Descriptor.Digest.Encoded())
	if err := os.MkdirAll(filepath.Dir(blob), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(blob, []byte("torn"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := image.WriteLayout(t.Context(), dir, img, ""); err != nil {
		t.Fatal(err)
	}
	got, err := image.Open(t.Context(), "oci:"+dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	sameImage(t, got, img)
}

// TestWriteLayoutRefusesDamage: content that is not what it should be never gets its name.
func TestWriteLayoutRefusesDamage(t *testing.T) {
	b := blobs{}
	root := manifestOf("", "", "")(b)
	img, err := image.New(t.Context(), root, b, amd64())
	if err != nil {
		t.Fatal(err)
	}
	layer := img.Layers()[0].Descriptor.Digest
	b[layer] = []byte("Layer")
	dir := t.TempDir()
	if _, err := image.WriteLayout(t.Context(), dir, img, "v1"); !errors.Is(err, image.ErrDigest) {
		t.Errorf("got %v, want ErrDigest", err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	if err != nil || len(entries) != 0 {
		t.Errorf("left %v, %v", entries, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "index.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("index.json: %v", err)
	}
}

func TestLayoutErrors(t *testing.T) {
	good := func(t *testing.T) string {
		dir := t.TempDir()
		if _, err := image.WriteLayout(t.Context(), dir, sample(t), "v1"); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	write := func(name, data string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		want   error
	}{
		{"no oci-layout", remove("oci-layout"), os.ErrNotExist},
		{"no index", remove("index.json"), os.ErrNotExist},
		{"no blobs", remove("blobs"), os.ErrNotExist},
		{"other version", write("oci-layout", `{"imageLayoutVersion":"2.0.0"}`), errors.ErrUnsupported},
		{"version not JSON", write("oci-layout", `1.0.0`), image.ErrFormat},
		{"index is a manifest", write("index.json", `{"schemaVersion":2,"config":{},"layers":[]}`), image.ErrFormat},
		{"index of 5 MiB", write("index.json", strings.Repeat(" ", 5<<20)), image.ErrLimit},
		{"empty index", write("index.json", `{"schemaVersion":2,"manifests":[]}`), os.ErrNotExist},
		{"digest leads out", write("index.json", `{"schemaVersion":2,"manifests":[{"mediaType":"`+typeManifest+
			`","size":1,"digest":"sha256:../../../../etc/passwd"}]}`), image.ErrFormat},
		{"index is a directory", func(t *testing.T, dir string) {
			remove("index.json")(t, dir)
			if err := os.Mkdir(filepath.Join(dir, "index.json"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, image.ErrFormat},
		{"index leads out", func(t *testing.T, dir string) {
			remove("index.json")(t, dir)
			outside := filepath.Join(t.TempDir(), "index.json")
			write("index.json", `{"schemaVersion":2,"manifests":[]}`)(t, filepath.Dir(outside))
			if err := os.Symlink(outside, filepath.Join(dir, "index.json")); err != nil {
				t.Fatal(err)
			}
		}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := good(t)
			tc.damage(t, dir)
			_, err := image.Open(t.Context(), "oci:"+dir, nil)
			if err == nil || (tc.want != nil && !errors.Is(err, tc.want)) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	if _, err := image.Open(t.Context(), "oci:"+filepath.Join(t.TempDir(), "missing"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
}
