package convert_test

import (
	"encoding/json"
	"errors"
	"strconv"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/convert"
	"hpcimg/image"
)

// FuzzSegments changes the manifest of a file in segments. What is accepted has no hole and nothing twice; what is not is refused with
// an error of package image.
func FuzzSegments(f *testing.F) {
	m := image.Manifest{MediaType: ocispec.MediaTypeImageManifest, Annotations: map[string]string{
		convert.AnnotationFileDigest: digest.FromString("file").String(), convert.AnnotationFileSize: "12388",
	}}
	m.SchemaVersion = 2
	for i, size := range []int64{4096, 8192, 100} {
		m.Layers = append(m.Layers, image.Descriptor{
			MediaType: convert.MediaTypeSegment, Digest: digest.FromString(strconv.Itoa(i)), Size: size, Annotations: map[string]string{
				convert.AnnotationSegmentOffset: []string{"0", "4096", "12288"}[i], convert.AnnotationSegmentFirst: digest.FromString("first").String(),
			},
		})
	}
	for _, kind := range []string{convert.ArtifactTypeSegments, convert.ArtifactTypeSIFSegments, ""} {
		m.ArtifactType = kind
		raw, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var m image.Manifest
		if json.Unmarshal(raw, &m) != nil {
			return
		}
		own := &shelf{blobs: map[digest.Digest][]byte{}}
		// The config goes along with whatever the layers are.
		config := image.Config{Platform: image.Platform{OS: "linux", Architecture: "amd64"}}
		config.RootFS.Type = "layers"
		for _, l := range m.Layers {
			config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.Digest)
		}
		m.Config = own.add(t, ocispec.MediaTypeImageConfig, config)
		img, err := image.New(t.Context(), own.add(t, ocispec.MediaTypeImageManifest, m), own,
			&image.Options{Platform: &config.Platform})
		if err != nil {
			return
		}
		form := convert.FormSquashfs
		if m.ArtifactType == convert.ArtifactTypeSIFSegments {
			form = convert.FormSIF
		}
		plan, err := convert.Plan(t.Context(), convert.FromImage(img), "x", &convert.Options{Form: form})
		if err != nil {
			if _, ok := errors.AsType[*image.DocumentError](err); !ok {
				t.Fatalf("not a *image.DocumentError: %v", err)
			}
			return
		}
		if m.ArtifactType != convert.ArtifactTypeSegments && m.ArtifactType != convert.ArtifactTypeSIFSegments {
			return
		}
		var end int64
		for _, l := range plan.Layers {
			if l.Size <= 0 || l.Size > plan.Size-end {
				t.Fatalf("a piece of %d bytes at %d in a file of %d", l.Size, end, plan.Size)
			}
			end += l.Size
		}
		if end != plan.Size {
			t.Fatalf("pieces of %d bytes for a file of %d", end, plan.Size)
		}
	})
}
