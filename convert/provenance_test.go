package convert_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/sif"
	"hpcimg/sign"
	"hpcimg/squashfs"
)

func provenanceImage(t *testing.T, text string) *image.Image {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "text", Mode: 0o644, Size: int64(len(text))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	config := image.Config{}
	config.OS, config.Architecture = "linux", "amd64"
	img, err := image.Build(config, image.LayerInput{Tar: layer.Bytes()})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestRebuild converts, signs and rebuilds with all parameters that count.
func TestRebuild(t *testing.T) {
	img := provenanceImage(t, "text\n")
	key, err := sign.GenerateKey(&sign.KeyOptions{Name: "Site"})
	if err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]*convert.Options{
		"default": nil,
		"all": {
			Compression: squashfs.CompressionZstd, Level: 3, BlockSize: 64 << 10, AllRoot: true, Time: time.Unix(1_700_000_000, 0), Workers: 3,
			SIF: convert.SIFOptions{Tool: "x", Version: "1", Definition: "bootstrap: docker\nfrom: y\n", Labels: map[string]string{"a": "b"}, ID: [16]byte{1, 2}, NoReuse: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image.sif")
			if _, err := convert.Convert(t.Context(), convert.FromImage(img), path, opts); err != nil {
				t.Fatal(err)
			}
			if err := sign.Sign(t.Context(), path, key, nil); err != nil {
				t.Fatal(err)
			}
			f, err := sif.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			p, err := convert.ReadProvenance(f)
			if err != nil {
				t.Fatal(err)
			}
			if p.Source.Manifest != img.Descriptor().Digest || len(p.Layers) != 1 || p.Layers[0].DiffID != img.Layers()[0].DiffID {
				t.Errorf("%+v", p)
			}
			dir := t.TempDir()
			if err := convert.Rebuild(t.Context(), f, img, &convert.Options{TempDir: dir}); err != nil {
				t.Error(err)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
				t.Errorf("left behind: %v, %v", entries, err)
			}
			if err := convert.Rebuild(t.Context(), f, provenanceImage(t, "other\n"), nil); !errors.Is(err, convert.ErrRebuild) {
				t.Errorf("another source: %v", err)
			}
		})
	}
}

// TestRebuildNotices changes what the file holds, or what it says of itself.
func TestRebuildNotices(t *testing.T) {
	img := provenanceImage(t, "text\n")
	path := filepath.Join(t.TempDir(), "image.sif")
	if _, err := convert.Convert(t.Context(), convert.FromImage(img), path, &convert.Options{SIF: convert.SIFOptions{NoReuse: true}}); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	object := func(b []byte, name string) (offset, size int) {
		f, err := sif.NewFile(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range f.Objects() {
			if o.Name == name || name == "" && o.Type == sif.DataPartition {
				return int(o.Offset), int(o.Size)
			}
		}
		t.Fatalf("no object %q", name)
		return 0, 0
	}
	say := func(change func(p *convert.Provenance)) func([]byte) []byte {
		return func(b []byte) []byte {
			offset, size := object(b, convert.ProvenanceObject)
			var p convert.Provenance
			if err := json.Unmarshal(b[offset:offset+size], &p); err != nil {
				t.Fatal(err)
			}
			change(&p)
			data, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			for slot := 4096; ; slot += 585 {
				if int(binary.LittleEndian.Uint64(b[slot+17:])) == offset {
					binary.LittleEndian.PutUint64(b[slot+25:], uint64(len(data)))
					break
				}
			}
			return append(b[:offset], data...)
		}
	}
	for name, change := range map[string]func([]byte) []byte{
		"byte of the partition": func(b []byte) []byte { offset, _ := object(b, ""); b[offset+200] ^= 1; return b },
		"byte of a JSON object": func(b []byte) []byte {
			offset, _ := object(b, sif.NameOCIConfig)
			b[offset+1] ^= 1
			return b
		},
		"launch script": func(b []byte) []byte { b[3] ^= 1; return b },
		"compression":   say(func(p *convert.Provenance) { p.Parameters.Compression = "zstd" }),
		"labels":        say(func(p *convert.Provenance) { p.Parameters.Labels = map[string]string{"x": "y"} }),
		"tool":          say(func(p *convert.Provenance) { p.Tool = "other" }),
		"size of layer": say(func(p *convert.Provenance) { p.Layers[0].Size++ }),
	} {
		t.Run(name, func(t *testing.T) {
			b := change(bytes.Clone(good))
			f, err := sif.NewFile(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			if err := convert.Rebuild(t.Context(), f, img, nil); !errors.Is(err, convert.ErrRebuild) {
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := convert.Convert(t.Context(), convert.FromImage(img), path, &convert.Options{Force: true, SIF: convert.SIFOptions{NoProvenance: true}}); err != nil {
		t.Fatal(err)
	}
	f, err := sif.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := convert.ReadProvenance(f); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without: %v", err)
	}
}
