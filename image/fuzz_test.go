package image_test

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"hpcimg/image"
)

// documented reports whether err is one that Open promises.
func documented(err error) bool {
	if _, ok := errors.AsType[*image.PlatformError](err); ok {
		return true
	}
	for _, want := range []error{image.ErrReference, image.ErrFormat, image.ErrDigest, image.ErrLimit, fs.ErrNotExist, errors.ErrUnsupported} {
		if errors.Is(err, want) {
			return true
		}
	}
	return false
}

// openFuzzed opens root and checks what holds for every image: errors are documented, layers obey their descriptors, and an image
// opened by its own descriptor is the same.
func openFuzzed(t *testing.T, b blobs, root image.Descriptor) {
	img, err := image.New(t.Context(), root, b, amd64())
	if err != nil {
		if !documented(err) {
			t.Fatalf("undocumented error %v", err)
		}
		return
	}
	if len(img.Layers()) != len(img.Config().RootFS.DiffIDs) {
		t.Fatalf("%d layers, %d diffIDs", len(img.Layers()), len(img.Config().RootFS.DiffIDs))
	}
	for _, l := range img.Layers() {
		if l.Descriptor.Size < 0 || l.Descriptor.Digest.Validate() != nil || l.DiffID.Validate() != nil {
			t.Fatalf("layer %+v", l)
		}
		readFuzzed(t, l)
	}
	again, err := image.New(t.Context(), img.Descriptor(), b, amd64())
	if err != nil || string(again.RawConfig()) != string(img.RawConfig()) || again.Descriptor().Digest != img.Descriptor().Digest {
		t.Fatalf("opened again: %v", err)
	}
}

// readFuzzed reads a layer: never more than its size, and without an error only the right bytes.
func readFuzzed(t *testing.T, l image.Layer) {
	rc, err := l.Open(t.Context())
	if err != nil {
		return
	}
	defer rc.Close()
	h := l.Descriptor.Digest.Algorithm().Digester()
	n, err := io.Copy(h.Hash(), rc)
	if n > l.Descriptor.Size || (err == nil) != (n == l.Descriptor.Size && h.Digest() == l.Descriptor.Digest) || (err != nil && !documented(err)) {
		t.Fatalf("read %d of %d bytes with digest %s of %s, %v", n, l.Descriptor.Size, h.Digest(), l.Descriptor.Digest, err)
	}
}

// seeds adds every document of one media type that the tables of this package use.
func seeds(f *testing.F, want ...string) {
	n := 0
	add := func(b blobs, d image.Descriptor) {
		for _, w := range want {
			if raw := b[d.Digest]; d.MediaType == w && len(raw) < 10_000 {
				f.Add(raw)
				n++
			}
		}
	}
	for _, tc := range hostileDocuments() {
		b := blobs{}
		add(b, tc.make(b))
	}
	b := blobs{}
	add(b, manifestOf("", "", "")(b))
	add(b, platformIndex(b, typeIndex, "linux/amd64", "linux/arm64/v8", "unknown/unknown"))
	if n < 3 {
		f.Fatalf("only %d seeds", n)
	}
}

// parts are the blobs that fuzzed documents may refer to.
func parts() blobs {
	b := blobs{}
	manifestOf("", "", "")(b)
	b.put(typeManifest, "m")
	return b
}

func FuzzManifest(f *testing.F) {
	seeds(f, typeManifest)
	f.Fuzz(func(t *testing.T, raw []byte) {
		b := parts()
		openFuzzed(t, b, b.put(typeManifest, string(raw)))
		openFuzzed(t, b, b.put("application/json", string(raw)))
	})
}

func FuzzIndex(f *testing.F) {
	seeds(f, typeIndex)
	f.Fuzz(func(t *testing.T, raw []byte) {
		b := parts()
		openFuzzed(t, b, b.put(typeIndex, string(raw)))
		openFuzzed(t, b, b.put(typeList, string(raw)))
	})
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(goodConfig))
	for _, tc := range hostileDocuments() {
		b := blobs{}
		tc.make(b)
		for _, raw := range b {
			if len(raw) < 2000 && len(raw) > 0 && raw[len(raw)-1] == '}' {
				f.Add(raw)
			}
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		b := parts()
		openFuzzed(t, b, manifestOf(jsonOf(b.put(typeConfig, string(raw))), "", "")(b))
	})
}

// FuzzArchive feeds tar files to both kinds of archive. What opens obeys the same rules as any image.
func FuzzArchive(f *testing.F) {
	plain := string(layerTar(f, "a", "one"))
	for _, entries := range [][]any{
		nil,
		{
			[2]string{"0", plain},
			tar.Header{Name: "1", Linkname: "0", Typeflag: tar.TypeSymlink},
			[2]string{"c", dockerConfig(plain, plain)},
			[2]string{"manifest.json", `[{"Config":"c","Layers":["0","1"]}]`},
		},
		{
			[2]string{"oci-layout", `{"imageLayoutVersion":"1.0.0"}`},
			[2]string{"index.json", `{"schemaVersion":2,"manifests":[` + entry() + `]}`},
			[2]string{"blobs/sha256/" + digest.FromString("m").Encoded(), "m"},
		},
	} {
		raw, err := os.ReadFile(archive(f, entries...))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	name := filepath.Join(f.TempDir(), "x.tar")
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, transport := range []string{"docker-archive:", "oci-archive:"} {
			img, err := image.Open(t.Context(), transport+name, amd64())
			if err != nil {
				if !documented(err) {
					t.Fatalf("%s undocumented error %v", transport, err)
				}
				continue
			}
			for _, l := range img.Layers() {
				readFuzzed(t, l)
			}
		}
	})
}
