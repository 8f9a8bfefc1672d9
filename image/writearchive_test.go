package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/image"
	"hpcimg/internal/oracle"
)

// archived writes an image to a file.
func archived(t *testing.T, write func(io.Writer) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	if err := write(&again); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Error("the same image gives another archive")
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// twice has a layer twice, and a time of creation.
func twice(t *testing.T) *image.Image {
	t.Helper()
	created := time.Unix(1e9, 5e8).UTC()
	layer := image.LayerInput{Tar: layerTar(t, "a", "first")}
	img, err := image.Build(image.Config{Created: &created}, layer, layer, image.LayerInput{Tar: layerTar(t, "b", "second"), Compression: image.CompressionNone})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestWriteArchive(t *testing.T) {
	for _, img := range []*image.Image{sample(t), twice(t)} {
		for _, tag := range []string{"", "v1"} {
			path := archived(t, func(w io.Writer) error {
				d, err := image.WriteArchive(t.Context(), w, img, tag)
				if err == nil && (d.Digest != img.Descriptor().Digest || d.Annotations[ocispec.AnnotationRefName] != tag || d.Platform == nil) {
					t.Errorf("descriptor %+v", d)
				}
				return err
			})
			ref := "oci-archive:" + path
			if tag != "" {
				ref += ":" + tag
			}
			got, err := image.Open(t.Context(), ref, nil)
			if err != nil {
				t.Fatal(err)
			}
			sameImage(t, got, img)
		}
	}
}

// TestWriteArchiveMembers pins what is in an archive.
func TestWriteArchiveMembers(t *testing.T) {
	img := twice(t)
	path := archived(t, func(w io.Writer) error { return image.WriteDockerArchive(t.Context(), w, img, "demo") })
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got []string
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %o %d", h.Name, h.Mode, h.ModTime.Unix()))
	}
	blob := func(d ocispec.Descriptor) string { return "blobs/sha256/" + d.Digest.Encoded() + " 644 1000000000" }
	want := []string{
		"manifest.json 644 1000000000", "oci-layout 644 1000000000", "index.json 644 1000000000", "blobs/ 755 1000000000", "blobs/sha256/ 755 1000000000",
		blob(img.Descriptor()), blob(img.Manifest().Config), blob(img.Layers()[0].Descriptor), blob(img.Layers()[2].Descriptor),
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestWriteDockerArchive(t *testing.T) {
	img := twice(t)
	for name, full := range map[string]string{
		"": "", "demo": "docker.io/library/demo:latest", "me/demo:v1": "docker.io/me/demo:v1", "localhost:5000/a/b:c": "localhost:5000/a/b:c",
	} {
		path := archived(t, func(w io.Writer) error { return image.WriteDockerArchive(t.Context(), w, img, name) })
		for _, ref := range []string{"docker-archive:" + path, "docker-archive:" + path + ":" + name, "docker-archive:" + path + ":" + full, "oci-archive:" + path} {
			if strings.HasSuffix(ref, ":") {
				continue
			}
			got, err := image.Open(t.Context(), ref, nil)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(img.RawConfig(), got.RawConfig()); d != "" {
				t.Errorf("%s: config (-want +got)\n%s", ref, d)
			}
			for i, l := range got.Layers() {
				if want := img.Layers()[i]; l.Descriptor.Digest != want.Descriptor.Digest || !bytes.Equal(readLayer(t, l), readLayer(t, want)) {
					t.Errorf("%s: layer %d differs", ref, i)
				}
			}
		}
	}
}

func TestWriteDockerArchiveErrors(t *testing.T) {
	for _, name := range []string{"UPPER", "a b", "demo@sha256:" + strings.Repeat("0", 64), "demo:", "x\x00y"} {
		err := image.WriteDockerArchive(t.Context(), io.Discard, twice(t), name)
		if _, ok := errors.AsType[*image.ReferenceError](err); !ok {
			t.Errorf("%q: error %v", name, err)
		}
	}
	b := blobs{}
	layer := b.put("application/vnd.sylabs.image.layer.v1.squashfs", "layer")
	root := manifestOf("", "["+jsonOf(layer)+"]", "")(b)
	img, err := image.New(t.Context(), root, b, amd64())
	if err != nil {
		t.Fatal(err)
	}
	if err := image.WriteDockerArchive(t.Context(), io.Discard, img, ""); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("layer that is no tar stream: %v", err)
	}
}

// TestWriteArchiveRefusesDamage reads layers that are not what they should be, and writes to what takes nothing.
func TestWriteArchiveRefusesDamage(t *testing.T) {
	for _, data := range []string{"Layer", "", "layer and more"} {
		b := blobs{}
		root := manifestOf("", "", "")(b)
		img, err := image.New(t.Context(), root, b, amd64())
		if err != nil {
			t.Fatal(err)
		}
		b[img.Layers()[0].Descriptor.Digest] = []byte(data)
		if _, err := image.WriteArchive(t.Context(), io.Discard, img, ""); !errors.Is(err, image.ErrDigest) {
			t.Errorf("layer %q: %v", data, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := image.WriteArchive(ctx, io.Discard, sample(t), ""); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := image.WriteDockerArchive(t.Context(), brokenWriter{}, sample(t), ""); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("broken: %v", err)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// TestSkopeoReadsArchives has another program take our archives for what they are.
func TestSkopeoReadsArchives(t *testing.T) {
	img := twice(t)
	oci := archived(t, func(w io.Writer) error {
		_, err := image.WriteArchive(t.Context(), w, img, "v1")
		return err
	})
	docker := archived(t, func(w io.Writer) error { return image.WriteDockerArchive(t.Context(), w, img, "example.org/demo:v1") })
	dir := t.TempDir()
	for _, from := range []string{"oci-archive:" + oci + ":v1", "oci-archive:" + docker + ":v1"} {
		to := "oci:" + filepath.Join(dir, fmt.Sprint(len(from))) + ":copy"
		skopeo(t, "--preserve-digests", from, to)
		got, err := image.Open(t.Context(), to, nil)
		if err != nil {
			t.Fatal(err)
		}
		sameImage(t, got, img)
	}
	skopeo(t, "docker-archive:"+docker+":example.org/demo:v1", "oci:"+filepath.Join(dir, "docker")+":copy")
	got, err := image.Open(t.Context(), "oci:"+filepath.Join(dir, "docker")+":copy", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range got.Layers() {
		if l.DiffID != img.Layers()[i].DiffID {
			t.Errorf("diffID of layer %d differs", i)
		}
	}
	if out := oracle.Run(t, "skopeo", "inspect", "docker-archive:"+docker+":example.org/demo:v1"); !strings.Contains(out, "2001-09-09T01:46:40") {
		t.Errorf("inspect says %s", out)
	}
}
