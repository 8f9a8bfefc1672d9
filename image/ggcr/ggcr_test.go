package ggcr_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"

	"hpcimg/image"
	"hpcimg/image/ggcr"
)

func layerTar(name, data string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))})
	_, _ = io.WriteString(w, data)
	_ = w.Close()
	return b.Bytes()
}

// build makes an image; with compressions other than gzip, which is all that go-containerregistry's validation knows, if mixed.
func build(t testing.TB, arch string, mixed bool) *image.Image {
	t.Helper()
	second, third := image.CompressionGzip, image.CompressionGzip
	if mixed {
		second, third = image.CompressionZstd, image.CompressionNone
	}
	config := image.Config{Platform: image.Platform{OS: "linux", Architecture: arch}}
	config.Config.Env = []string{"A=b"}
	img, err := image.Build(config,
		image.LayerInput{Tar: layerTar("a", strings.Repeat(arch, 1000)), Compression: image.CompressionGzip},
		image.LayerInput{Tar: layerTar("b", "second"), Compression: second},
		image.LayerInput{Tar: layerTar("c", "third"), Compression: third})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func readAll(t testing.TB, open func() (io.ReadCloser, error)) []byte {
	t.Helper()
	rc, err := open()
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

// same compares images to the last byte.
func same(t testing.TB, got, want *image.Image) {
	t.Helper()
	if got.Descriptor().Digest != want.Descriptor().Digest || !bytes.Equal(got.RawConfig(), want.RawConfig()) {
		t.Fatalf("got %s, want %s", got.Descriptor().Digest, want.Descriptor().Digest)
	}
	for i, l := range got.Layers() {
		w := want.Layers()[i]
		a := readAll(t, func() (io.ReadCloser, error) { return l.Open(t.Context()) })
		b := readAll(t, func() (io.ReadCloser, error) { return w.Open(t.Context()) })
		if !bytes.Equal(a, b) {
			t.Errorf("layer %d differs", i)
		}
	}
}

// TestThereAndBack: what go-containerregistry makes of an image is valid to it, and the same image again.
func TestThereAndBack(t *testing.T) {
	img := build(t, "amd64", false)
	v, err := ggcr.ToImage(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(v); err != nil {
		t.Error(err)
	}
	opts := &image.Options{Platform: &image.Platform{Architecture: "amd64"}}
	back, err := ggcr.FromImage(t.Context(), v, opts)
	if err != nil {
		t.Fatal(err)
	}
	same(t, back, img)

	// Of other compressions it knows how to read the layers.
	mixed := build(t, "amd64", true)
	if v, err = ggcr.ToImage(t.Context(), mixed); err != nil {
		t.Fatal(err)
	}
	if back, err = ggcr.FromImage(t.Context(), v, opts); err != nil {
		t.Fatal(err)
	}
	same(t, back, mixed)
	layers, err := v.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range layers {
		if got := digest.FromBytes(readAll(t, l.Uncompressed)); got != mixed.Layers()[i].DiffID {
			t.Errorf("layer %d: diffID %s", i, got)
		}
	}

	foreign, err := random.Image(1000, 3)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := ggcr.FromImage(t.Context(), foreign, &image.Options{Platform: &image.Platform{}})
	if p, ok := errors.AsType[*image.PlatformError](err); ok { // its config says what it likes
		ours, err = ggcr.FromImage(t.Context(), foreign, &image.Options{Platform: &p.Have[0]})
	}
	if err != nil {
		t.Fatal(err)
	}
	again, err := ggcr.ToImage(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := foreign.Digest()
	if b, _ := again.Digest(); a != b {
		t.Errorf("digest %s, want %s", b, a)
	}
	if err := validate.Image(again); err != nil {
		t.Error(err)
	}
}

// TestIndex chooses by platform, through an index in an index, and reads nothing that it does not need.
func TestIndex(t *testing.T) {
	arm, amd := build(t, "arm64", false), build(t, "amd64", false)
	inner, err := ggcr.ToIndex(t.Context(), arm, amd)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(inner); err != nil {
		t.Error(err)
	}
	for what, x := range map[string]v1.ImageIndex{"plain": inner, "nested": mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: inner})} {
		for _, want := range []*image.Image{arm, amd} {
			p := want.Platform()
			got, err := ggcr.FromIndex(t.Context(), x, &image.Options{Platform: &p})
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			same(t, got, want)
		}
		_, err := ggcr.FromIndex(t.Context(), x, &image.Options{Platform: &image.Platform{Architecture: "riscv64"}})
		if e, ok := errors.AsType[*image.PlatformError](err); !ok || len(e.Have) != 2 {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestWrittenByOther: go-containerregistry writes our image, as a layout and as a Docker archive, and we read what it has written.
func TestWrittenByOther(t *testing.T) {
	img := build(t, "amd64", true)
	v, err := ggcr.ToImage(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "layout")
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendImage(v); err != nil {
		t.Fatal(err)
	}
	opts := &image.Options{Platform: &image.Platform{Architecture: "amd64"}}
	got, err := image.Open(t.Context(), "oci:"+dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, img)
	x, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	if got, err = ggcr.FromIndex(t.Context(), x, opts); err != nil {
		t.Fatal(err)
	}
	same(t, got, img)
	tag, err := name.NewTag("example.org/x:v1")
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "x.tar")
	if err := tarball.WriteToFile(archive, tag, v); err != nil {
		t.Fatal(err)
	}
	if got, err = image.Open(t.Context(), "docker-archive:"+archive+":example.org/x:v1", opts); err != nil {
		t.Fatal(err)
	}
	for i, l := range got.Layers() {
		if l.DiffID != img.Layers()[i].DiffID {
			t.Errorf("layer %d: diffID %s", i, l.DiffID)
		}
	}
}

// flipped has a wrong byte in its largest layer.
type flipped struct{ *image.Image }

func (f flipped) Open(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	switch d.Digest {
	case f.Descriptor().Digest:
		return io.NopCloser(bytes.NewReader(f.RawManifest())), nil
	case f.Manifest().Config.Digest:
		return io.NopCloser(bytes.NewReader(f.RawConfig())), nil
	}
	rc, err := f.OpenBlob(ctx, d)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		return nil, err
	}
	b[len(b)-1] ^= 1
	return io.NopCloser(bytes.NewReader(b)), nil
}

// TestDamage: a wrong byte is found on both ways, and so is a diffID that is another's.
func TestDamage(t *testing.T) {
	img := build(t, "amd64", true)
	opts := &image.Options{Platform: &image.Platform{Architecture: "amd64"}}
	bad, err := image.New(t.Context(), img.Descriptor(), flipped{img}, opts)
	if err != nil {
		t.Fatal(err)
	}
	v, err := ggcr.ToImage(t.Context(), bad)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := v.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range layers {
		for how, open := range map[string]func() (io.ReadCloser, error){"compressed": l.Compressed, "uncompressed": l.Uncompressed} {
			rc, err := open()
			if err == nil {
				_, err = io.Copy(io.Discard, rc)
				rc.Close()
			}
			// A decompressor may notice before the end of the blob.
			if err == nil || how == "compressed" && !errors.Is(err, image.ErrDigest) {
				t.Errorf("layer %d %s: %v", i, how, err)
			}
		}
	}
	back, err := ggcr.FromImage(t.Context(), v, opts)
	if err != nil {
		t.Fatal(err)
	}
	rc, err := back.Layers()[0].Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if _, err := io.Copy(io.Discard, rc); !errors.Is(err, image.ErrDigest) {
		t.Errorf("back again: %v", err)
	}

	// The config may say what is not so.
	config, manifest := img.Config(), img.Manifest()
	config.RootFS.DiffIDs = slices.Clone(config.RootFS.DiffIDs)
	slices.Reverse(config.RootFS.DiffIDs)
	lying := liar{img, map[digest.Digest][]byte{}}
	manifest.Config = lying.add(t, manifest.Config.MediaType, config)
	claimed, err := image.New(t.Context(), lying.add(t, manifest.MediaType, manifest), lying, opts)
	if err != nil {
		t.Fatal(err)
	}
	if v, err = ggcr.ToImage(t.Context(), claimed); err != nil {
		t.Fatal(err)
	}
	layers, err = v.Layers()
	if err != nil {
		t.Fatal(err)
	}
	plain, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := io.Copy(io.Discard, plain); !errors.Is(err, image.ErrDigest) {
		t.Errorf("with another's diffID: %v", err)
	}
}

// liar has an image's layers under other documents.
type liar struct {
	*image.Image
	documents map[digest.Digest][]byte
}

func (l liar) Open(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	if raw, ok := l.documents[d.Digest]; ok {
		return io.NopCloser(bytes.NewReader(raw)), nil
	}
	return l.OpenBlob(ctx, d)
}

func (l liar) add(t *testing.T, mediaType string, document any) image.Descriptor {
	t.Helper()
	raw, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	d := image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	l.documents[d.Digest] = raw
	return d
}

// TestContext: layers are read with the context that they were made with.
func TestContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v, err := ggcr.ToImage(ctx, build(t, "amd64", true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ggcr.FromImage(ctx, v, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func ExampleToImage() {
	ctx := context.Background()
	img, err := image.Build(image.Config{}, image.LayerInput{Tar: layerTar("hello", "hello")})
	if err != nil {
		fmt.Println(err)
		return
	}
	v, err := ggcr.ToImage(ctx, img)
	if err != nil {
		fmt.Println(err)
		return
	}
	labelled, err := mutate.Config(v, v1.Config{Labels: map[string]string{"title": "demo"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	back, err := ggcr.FromImage(ctx, labelled, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(back.Config().Config.Labels["title"], len(back.Layers()))
	// Output: demo 1
}

func ExampleFromIndex() {
	ctx := context.Background()
	var all []*image.Image
	for _, arch := range []string{"amd64", "arm64"} {
		img, err := image.Build(image.Config{Platform: image.Platform{OS: "linux", Architecture: arch}})
		if err != nil {
			fmt.Println(err)
			return
		}
		all = append(all, img)
	}
	x, err := ggcr.ToIndex(ctx, all...)
	if err != nil {
		fmt.Println(err)
		return
	}
	img, err := ggcr.FromIndex(ctx, x, &image.Options{Platform: &image.Platform{Architecture: "arm64"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(img.Platform().Architecture)
	// Output: arm64
}
