package convert_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/image/cache"
	"hpcimg/internal/testtree"
	"hpcimg/sif"
	"hpcimg/squashfs"
)

func openSIF(t *testing.T, path string) *sif.File {
	t.Helper()
	f, err := sif.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestFormOCISIF makes an OCI-SIF and an image of it again.
func TestFormOCISIF(t *testing.T) {
	img := sample(t)
	want := listing(t, convert.FromImage(img), nil)
	dir := t.TempDir()
	var first []byte
	for _, workers := range []int{1, 4} {
		dst := filepath.Join(dir, "image.oci.sif")
		r, err := convert.Convert(t.Context(), convert.FromImage(img), dst, &convert.Options{Workers: workers, Force: true})
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(dst)
		if err != nil {
			t.Fatal(err)
		}
		if r.Form != convert.FormOCISIF || r.Size != int64(len(data)) || r.Digest == "" {
			t.Errorf("result %+v", r)
		}
		if first == nil {
			first = data
		}
		if !bytes.Equal(first, data) {
			t.Errorf("%d workers: another file", workers)
		}
	}
	c, err := cache.Open(filepath.Join(dir, "cache"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []convert.Origin{convert.OriginSource, convert.OriginCache} {
		dst := filepath.Join(dir, "image.oci.sif")
		r, err := convert.Convert(t.Context(), convert.FromImage(img), dst, &convert.Options{Cache: c, Force: true})
		if err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(dst); err != nil || !bytes.Equal(data, first) || r.Layers[0].SegmentFrom != from {
			t.Errorf("from %s: %v, %+v", from, err, r.Layers)
		}
	}
	f := openSIF(t, filepath.Join(dir, "image.oci.sif"))
	objects := f.Objects()
	if len(objects) != 4 || objects[0].Type != sif.DataOCIBlob || objects[3].Type != sif.DataOCIRootIndex || objects[0].Offset%4096 != 0 {
		t.Fatalf("objects %+v", objects)
	}
	for _, o := range objects {
		d, err := digest.FromReader(o.Open())
		if err != nil || d.String() != o.Digest() {
			t.Errorf("object %d is %s (%v), and says %s", o.ID, d, err, o.Digest())
		}
	}
	var manifest image.Manifest
	if err := json.NewDecoder(objects[2].Open()).Decode(&manifest); err != nil {
		t.Fatal(err)
	}
	if len(manifest.Layers) != 1 || manifest.Layers[0].MediaType != convert.MediaTypeSquashfsLayer {
		t.Errorf("layers %+v", manifest.Layers)
	}
	if inside, err := convert.OCIImage(f); err != nil || inside.Platform().Architecture != img.Platform().Architecture || len(inside.Layers()) != 1 {
		t.Errorf("%v, %v", inside, err)
	}
	plain, _, _ := toSIF(t, convert.FromImage(img), nil)
	if _, err := convert.OCIImage(openSIF(t, plain)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a SIF of another kind: %v", err)
	}
	src, err := convert.FromSIF(f)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "OCI-SIF", want, listing(t, src, nil))
	if d, ok := src.Manifest(); !ok || d.Digest.String() != objects[2].Digest() {
		t.Errorf("the manifest is %v, not %s", d, objects[2].Digest())
	}
	if src, err = convert.FromSIF(openSIF(t, plain)); err != nil {
		t.Fatal(err)
	}
	if d, ok := src.Manifest(); ok {
		t.Errorf("a SIF of another kind has the manifest %v", d)
	}
	src, err = convert.FromSIF(f)
	if err != nil {
		t.Fatal(err)
	}
	_, err = convert.Convert(t.Context(), src, filepath.Join(dir, "x.oci.sif"), &convert.Options{OCI: convert.OCIOptions{Layers: convert.LayersTar}})
	if !errors.Is(err, convert.ErrForm) {
		t.Errorf("layers that are tar streams: %v", err)
	}
}

// ociSIF writes an OCI-SIF with the given blobs as layers.
type ociSIF struct {
	media  []string
	layers [][]byte
	config image.Config
	extra  []image.Descriptor // in the index
}

func (o ociSIF) write(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "made.oci.sif")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	w, err := sif.NewOCIWriter(out, &sif.OCIWriterOptions{Blobs: len(o.layers) + 2})
	if err != nil {
		t.Fatal(err)
	}
	add := func(mediaType string, data []byte) image.Descriptor {
		t.Helper()
		d, err := w.AddBlob(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		return image.Descriptor{MediaType: mediaType, Digest: digest.Digest(d), Size: int64(len(data))}
	}
	manifest := image.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	o.config.RootFS.Type = "layers"
	for i, data := range o.layers {
		d := add(o.media[i], data)
		manifest.Layers = append(manifest.Layers, d)
		o.config.RootFS.DiffIDs = append(o.config.RootFS.DiffIDs, d.Digest)
	}
	encode := func(v any) []byte {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	manifest.Config = add(ocispec.MediaTypeImageConfig, encode(o.config))
	index := image.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	index.Manifests = append(o.extra, add(ocispec.MediaTypeImageManifest, encode(manifest)))
	if _, err := w.Close(bytes.NewReader(encode(index))); err != nil {
		t.Fatal(err)
	}
	return path
}

func squashfsOf(t *testing.T, tree testtree.Tree) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layer.sqfs")
	err := squashfs.Create(t.Context(), path, nil, func(ctx context.Context, w *squashfs.Writer) error {
		return w.FromTar(ctx, bytes.NewReader(tree.Tar(nil)), nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

var foreign = image.Config{Platform: image.Platform{OS: "linux", Architecture: "riscv64"}}

// TestOCISIFLayers lays squashfs layers with overlayfs's whiteouts and a tar layer over one another, for a machine that is not this one.
func TestOCISIFLayers(t *testing.T) {
	bottom := testtree.Tree{
		testtree.Dir("a", 0o755), testtree.File("a/gone", 0o644, "gone"), testtree.File("a/stays", 0o644, "stays"),
		testtree.Dir("b", 0o755), testtree.File("b/below", 0o644, "below"),
	}
	whiteout := testtree.Char("a/gone", 0o600, 0, 0)
	opaque := testtree.Dir("b", 0o700)
	opaque.Xattrs = map[string]string{"trusted.overlay.opaque": "y", "user.kept": "k"}
	top := testtree.Tree{testtree.Dir("a", 0o755), whiteout, opaque, testtree.File("b/above", 0o644, "above")}
	last := testtree.Tree{testtree.File("last", 0o644, "last"), testtree.File("b/.wh.above", 0o644, "")}
	path := ociSIF{
		media:  []string{convert.MediaTypeSquashfsLayer, convert.MediaTypeSquashfsLayer, ocispec.MediaTypeImageLayer},
		layers: [][]byte{squashfsOf(t, bottom), squashfsOf(t, top), last.Tar(nil)},
		config: foreign,
		extra: []image.Descriptor{{
			MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1,
			Annotations: map[string]string{ocispec.AnnotationRefName: "_cosign:sha256-00.sig"},
		}},
	}.write(t)
	src, err := convert.FromSIF(openSIF(t, path))
	if err != nil {
		t.Fatal(err)
	}
	wantB := testtree.Dir("b", 0o700)
	wantB.Xattrs = map[string]string{"user.kept": "k"}
	want := listing(t, convert.FromTar(bytes.NewReader(testtree.Tree{
		testtree.Dir("a", 0o755), testtree.File("a/stays", 0o644, "stays"), wantB, testtree.File("last", 0o644, "last"),
	}.Tar(nil))), nil)
	same(t, "layers", want, listing(t, src, nil))
	dst := filepath.Join(t.TempDir(), "x.sif")
	r, err := convert.Convert(t.Context(), src, dst, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Arch != "riscv64" || len(r.Layers) != 3 || len(r.Warnings) != 0 {
		t.Errorf("%+v", r)
	}
}

// TestOCISIFReplaced: an OCI-SIF that becomes another one after it was opened is converted to what its manifest was then, or not at all.
func TestOCISIFReplaced(t *testing.T) {
	made := func(contents string) []byte {
		layer := testtree.Tree{testtree.File("f", 0o644, contents)}.Tar(nil)
		data, err := os.ReadFile(ociSIF{media: []string{ocispec.MediaTypeImageLayer}, layers: [][]byte{layer}, config: foreign}.write(t))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	a, b := made("one"), made("two")
	data := bytes.Clone(a)
	f, err := sif.NewFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	img, err := convert.OCIImage(f)
	if err != nil {
		t.Fatal(err)
	}
	src, err := convert.FromSIF(f)
	if err != nil {
		t.Fatal(err)
	}
	if len(a) != len(b) {
		t.Fatal("the files differ in size")
	}
	copy(data, b)
	if d, ok := src.Manifest(); !ok || d.Digest != img.Descriptor().Digest {
		t.Errorf("the manifest is %v, not %v", d, img.Descriptor())
	}
	_, err = convert.Convert(t.Context(), src, filepath.Join(t.TempDir(), "x.sqfs"), nil)
	if !errors.Is(err, image.ErrDigest) {
		t.Errorf("%v", err)
	}
}

// TestOCISIFErrors are files whose image is not what it says, or has what an image cannot.
func TestOCISIFErrors(t *testing.T) {
	layer := squashfsOf(t, testtree.Tree{testtree.File("f", 0o644, strings.Repeat("contents ", 10_000))})
	two := ociSIF{media: []string{convert.MediaTypeSquashfsLayer}, layers: [][]byte{layer}, config: foreign}
	two.extra = []image.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1}}
	for name, o := range map[string]ociSIF{
		"ext3":       {media: []string{"application/vnd.sylabs.image.layer.v1.ext3"}, layers: [][]byte{layer}, config: foreign},
		"unknown":    {media: []string{"text/plain"}, layers: [][]byte{layer}, config: foreign},
		"two images": two,
	} {
		if _, err := convert.FromSIF(openSIF(t, o.write(t))); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	path := ociSIF{media: []string{convert.MediaTypeSquashfsLayer}, layers: [][]byte{layer}, config: foreign}.write(t)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	objects := openSIF(t, path).Objects()
	for i, o := range objects {
		at := o.Offset + o.Size/2
		if i == 0 {
			at = o.Offset + 8 // the time of the file system, in which nobody else would find fault
		}
		bad := bytes.Clone(data)
		bad[at] ^= 1
		f, err := sif.NewFile(bytes.NewReader(bad), int64(len(bad)))
		if err != nil {
			t.Fatal(err)
		}
		dst := filepath.Join(t.TempDir(), "x.sqfs")
		src, err := convert.FromSIF(f)
		if err == nil {
			_, err = convert.Convert(t.Context(), src, dst, nil)
		}
		if !errors.Is(err, image.ErrDigest) {
			t.Errorf("object %d damaged: %v", o.ID, err)
		}
		if _, err := os.Lstat(dst); err == nil {
			t.Errorf("object %d damaged: there is a file", o.ID)
		}
	}
}
