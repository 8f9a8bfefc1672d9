package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"io"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/image"
	"hpcimg/sif"
)

// ociSIFAlignment lets the kernel mount the layer where it is in the file, and file systems share its blocks.
const ociSIFAlignment = dataAlign

// ociSIF makes an OCI-SIF: one layer, which is a squashfs and written in its place, the config, the manifest and an index.
func (j *job) ociSIF(ctx context.Context) error {
	const blobs = 3
	w, err := sif.NewOCIWriter(j.out, &sif.OCIWriterOptions{
		Blobs: blobs, ID: j.opts.SIF.ID, Time: j.opts.Time, Alignment: ociSIFAlignment,
	})
	if err != nil {
		return err
	}
	if j.base, err = w.BeginBlob(); err != nil {
		return err
	}
	if err := j.run(ctx); err != nil {
		return err
	}
	size := j.result.Size - j.base
	manifest := newManifest()
	layers, err := j.cut(io.NewSectionReader(j.out, j.base, size), size, manifest)
	if err != nil {
		return err
	}
	if err := w.EndBlob(size, layers[0].digest.String()); err != nil {
		return err
	}
	img, err := j.describe(ctx, layers, manifest)
	if err != nil {
		return err
	}
	for _, document := range [][]byte{img.RawConfig(), img.RawManifest()} {
		if _, err := w.AddBlob(bytes.NewReader(document)); err != nil {
			return err
		}
	}
	index, err := rootIndex(img)
	if err != nil {
		return err
	}
	j.result.Digest = img.Descriptor().Digest
	j.result.Size, err = w.Close(bytes.NewReader(index))
	return err
}

// rootIndex says which image is in an OCI-SIF.
func rootIndex(img *image.Image) ([]byte, error) {
	d := img.Descriptor()
	platform := img.Platform()
	return json.Marshal(image.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []image.Descriptor{{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Platform: &platform}},
	})
}

func newManifest() *image.Manifest {
	return &image.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
}
