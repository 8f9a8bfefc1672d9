package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hpcimg/image"
)

// archive writes a tar file. Headers with a link target are symbolic links unless they have a type.
func archive(t testing.TB, entries ...any) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image.tar")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		var h tar.Header
		var data []byte
		switch e := e.(type) {
		case [2]string:
			h, data = tar.Header{Name: e[0], Mode: 0o644, Size: int64(len(e[1]))}, []byte(e[1])
		case tar.Header:
			h = e
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// layoutArchive is a layout in a tar file.
func layoutArchive(t *testing.T, img *image.Image, tag string) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := image.WriteLayout(t.Context(), dir, img, tag); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "layout.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestOCIArchive(t *testing.T) {
	want := sample(t)
	name := layoutArchive(t, want, "v1")
	for _, ref := range []string{"", ":v1", "@" + want.Descriptor().Digest.String()} {
		img, err := image.Open(t.Context(), "oci-archive:"+name+ref, nil)
		if err != nil {
			t.Fatal(err)
		}
		sameImage(t, img, want)
	}
	if _, err := image.Open(t.Context(), "oci-archive:"+name+":v2", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing tag: %v", err)
	}
}

// dockerConfig is the config of a Docker archive with these uncompressed layers.
func dockerConfig(layers ...string) string {
	var ids []string
	for _, l := range layers {
		ids = append(ids, fmt.Sprintf("%q", digest.FromString(l)))
	}
	return `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[` + strings.Join(ids, ",") + `]}}`
}

func gzipped(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestDockerArchive(t *testing.T) {
	plain, zipped := string(layerTar(t, "a", "one")), string(layerTar(t, "b", "two"))
	packed := gzipped(t, zipped)
	named := "blobs/sha256/" + digest.FromString(packed).Encoded()
	name := archive(t,
		[2]string{"0/layer.tar", plain},
		tar.Header{Name: "1/layer.tar", Linkname: "../0/layer.tar", Typeflag: tar.TypeSymlink},
		tar.Header{Name: "2/layer.tar", Linkname: "0/layer.tar", Typeflag: tar.TypeLink},
		[2]string{"3.tar.gz", packed},
		[2]string{named, packed},
		[2]string{"config.json", dockerConfig(plain, plain, plain, zipped, zipped)},
		[2]string{"small.json", dockerConfig(plain)},
		[2]string{"manifest.json", `[
			{"Config":"config.json","RepoTags":["localhost:5000/all:v1","alpine:3"],
			 "Layers":["0/layer.tar","1/layer.tar","2/layer.tar","3.tar.gz","` + named + `"]},
			{"Config":"small.json","RepoTags":["small:latest"],"Layers":["0/layer.tar"]},
			{"Config":"small.json","RepoTags":null,"Layers":["0/layer.tar"]}]`},
	)
	for _, tag := range []string{"localhost:5000/all:v1", "alpine:3", "docker.io/library/alpine:3"} {
		img, err := image.Open(t.Context(), "docker-archive:"+name+":"+tag, amd64())
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{plain, plain, plain, packed, packed} {
			l := img.Layers()[i]
			if got := string(readLayer(t, l)); got != want {
				t.Errorf("layer %d differs", i)
			}
			if c := l.Compression(); (c == image.CompressionGzip) != (i >= 3) || (c == image.CompressionNone) != (i < 3) {
				t.Errorf("layer %d is %v", i, c)
			}
		}
	}
	img, err := image.Open(t.Context(), "docker-archive:"+name+":small", amd64())
	if err != nil || len(img.Layers()) != 1 {
		t.Errorf("small: %v", err)
	}
	_, err = image.Open(t.Context(), "docker-archive:"+name, amd64())
	if !errors.Is(err, image.ErrReference) || !strings.Contains(err.Error(), "alpine:3") {
		t.Errorf("no reference: %v, want an error that lists them", err)
	}
	_, err = image.Open(t.Context(), "docker-archive:"+name+":other", amd64())
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing reference: %v", err)
	}
}

func TestArchiveErrors(t *testing.T) {
	plain := string(layerTar(t, "a", "one"))
	manifest := func(layers string) [2]string {
		return [2]string{"manifest.json", `[{"Config":"c","RepoTags":[],"Layers":[` + layers + `]}]`}
	}
	for _, tc := range []struct {
		name    string
		entries []any
		want    error
	}{
		{"empty", nil, fs.ErrNotExist},
		{"config missing", []any{manifest(`"0"`), [2]string{"0", plain}}, fs.ErrNotExist},
		{"layer missing", []any{manifest(`"0"`), [2]string{"c", dockerConfig(plain)}}, fs.ErrNotExist},
		{"layer leads out", []any{manifest(`"../../etc/passwd"`), [2]string{"c", dockerConfig(plain)}}, fs.ErrNotExist},
		{"layers and diffIDs differ", []any{manifest(`"0","0"`), [2]string{"c", dockerConfig(plain)}, [2]string{"0", plain}}, image.ErrFormat},
		{"links in a circle", []any{
			manifest(`"0"`),
			[2]string{"c", dockerConfig(plain)},
			tar.Header{Name: "0", Linkname: "1", Typeflag: tar.TypeSymlink},
			tar.Header{Name: "1", Linkname: "0", Typeflag: tar.TypeSymlink},
		}, image.ErrFormat},
		{"manifest not JSON", []any{[2]string{"manifest.json", "x"}}, image.ErrFormat},
		{"manifest is an object", []any{[2]string{"manifest.json", "{}"}}, image.ErrFormat},
		{"null in manifest", []any{[2]string{"manifest.json", "[null]"}}, image.ErrFormat},
		{"no config named", []any{[2]string{"manifest.json", "[{}]"}}, image.ErrFormat},
		{"manifest of 5 MiB", []any{[2]string{"manifest.json", strings.Repeat(" ", 5<<20)}}, image.ErrLimit},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := image.Open(t.Context(), "docker-archive:"+archive(t, tc.entries...), amd64())
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestArchiveLayerDiffers(t *testing.T) {
	plain := string(layerTar(t, "a", "one"))
	name := archive(t, [2]string{"0", plain[:1000] + "x" + plain[1001:]}, [2]string{"c", dockerConfig(plain)},
		[2]string{"manifest.json", `[{"Config":"c","Layers":["0"]}]`})
	img, err := image.Open(t.Context(), "docker-archive:"+name, amd64())
	if err != nil {
		t.Fatal(err)
	}
	rc, err := img.Layers()[0].Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if _, err := io.Copy(io.Discard, rc); !errors.Is(err, image.ErrDigest) {
		t.Errorf("got %v, want ErrDigest", err)
	}
}

func TestArchiveFile(t *testing.T) {
	good := layoutArchive(t, sample(t), "v1")
	raw, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	write := func(data string) string {
		name := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, tc := range []struct {
		name, path string
		want       error
		says       string
	}{
		{"missing", filepath.Join(t.TempDir(), "x.tar"), fs.ErrNotExist, "x.tar"},
		{"directory", t.TempDir(), fs.ErrInvalid, "regular"},
		{"gzip", write(gzipped(t, string(raw))), errors.ErrUnsupported, "gunzip"},
		{"zstd", write("\x28\xb5\x2f\xfdxxxx"), errors.ErrUnsupported, "zstd"},
		{"xz", write("\xfd7zXZ\x00xxxx"), errors.ErrUnsupported, "unxz"},
		{"bzip2", write("BZh9xxxx"), errors.ErrUnsupported, "bunzip2"},
		{"garbage", write(strings.Repeat("x", 4096)), image.ErrFormat, ""},
		{"cut off", write(string(raw[:len(raw)/2])), nil, ""},
		{"empty", write(""), fs.ErrNotExist, "not an OCI image layout"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := image.Open(t.Context(), "oci-archive:"+tc.path, nil)
			if err == nil || (tc.want != nil && !errors.Is(err, tc.want)) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %v and %q", err, tc.want, tc.says)
			}
		})
	}

	img, err := image.Open(t.Context(), "oci-archive:"+good, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(good, time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := img.Layers()[0].Open(t.Context()); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("archive that changed: %v", err)
	}
}

func TestOpenOfOtherTransports(t *testing.T) {
	for ref, says := range map[string]string{
		"oras://ghcr.io/x/y:z": "sif", "sif:x.sif": "sif", "squashfs:x.sqfs": "squashfs", "dir:x": "convert", "tar:x.tar": "convert",
	} {
		_, err := image.Open(t.Context(), ref, nil)
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := image.OpenReference(t.Context(), image.Reference{}, nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("zero reference: %v", err)
	}
}
