package ggcr

import (
	"context"
	"fmt"
	"hash"
	"io"
	"io/fs"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"hpcimg/image"
)

// ToImage returns img as an image of go-containerregistry. Layers are read with ctx. Digests other than SHA-256 are an error, as
// go-containerregistry has no others.
func ToImage(ctx context.Context, img *image.Image) (v1.Image, error) {
	v := &toImage{img: img}
	all := []digest.Digest{img.Descriptor().Digest, img.Manifest().Config.Digest}
	for _, l := range img.Layers() {
		all = append(all, l.Descriptor.Digest, l.DiffID)
		v.layers = append(v.layers, &toLayer{ctx: ctx, layer: l})
	}
	for _, d := range all {
		if _, err := v1.NewHash(d.String()); err != nil {
			return nil, fmt.Errorf("ggcr: %w", err)
		}
	}
	return v, nil
}

// ToIndex returns an index of images, in their order, as go-containerregistry has it. Their platforms are what their configs say.
func ToIndex(ctx context.Context, imgs ...*image.Image) (v1.ImageIndex, error) {
	var all []mutate.IndexAddendum
	for _, img := range imgs {
		v, err := ToImage(ctx, img)
		if err != nil {
			return nil, err
		}
		p := img.Platform()
		all = append(all, mutate.IndexAddendum{Add: v, Descriptor: v1.Descriptor{Platform: &v1.Platform{
			OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures,
		}}})
	}
	return mutate.AppendManifests(empty.Index, all...), nil
}

type toImage struct {
	img    *image.Image
	layers []v1.Layer
}

func (v *toImage) Layers() ([]v1.Layer, error) { return append([]v1.Layer(nil), v.layers...), nil }

func (v *toImage) MediaType() (types.MediaType, error) {
	return types.MediaType(v.img.Descriptor().MediaType), nil
}
func (v *toImage) Size() (int64, error) { return v.img.Descriptor().Size, nil }
func (v *toImage) ConfigName() (v1.Hash, error) {
	return v1.NewHash(v.img.Manifest().Config.Digest.String())
}
func (v *toImage) ConfigFile() (*v1.ConfigFile, error) { return partial.ConfigFile(v) }
func (v *toImage) RawConfigFile() ([]byte, error)      { return v.img.RawConfig(), nil }
func (v *toImage) Digest() (v1.Hash, error)            { return v1.NewHash(v.img.Descriptor().Digest.String()) }
func (v *toImage) Manifest() (*v1.Manifest, error)     { return partial.Manifest(v) }
func (v *toImage) RawManifest() ([]byte, error)        { return v.img.RawManifest(), nil }

func (v *toImage) LayerByDigest(h v1.Hash) (v1.Layer, error) {
	if h.String() == v.img.Manifest().Config.Digest.String() {
		return partial.ConfigLayer(v)
	}
	for i, l := range v.img.Layers() {
		if l.Descriptor.Digest.String() == h.String() {
			return v.layers[i], nil
		}
	}
	return nil, fmt.Errorf("ggcr: no layer %s: %w", h, fs.ErrNotExist)
}

func (v *toImage) LayerByDiffID(h v1.Hash) (v1.Layer, error) {
	for i, l := range v.img.Layers() {
		if l.DiffID.String() == h.String() {
			return v.layers[i], nil
		}
	}
	return nil, fmt.Errorf("ggcr: no layer with diffID %s: %w", h, fs.ErrNotExist)
}

type toLayer struct {
	ctx   context.Context //nolint:containedctx // of all reading: v1.Layer has none
	layer image.Layer
}

func (l *toLayer) Digest() (v1.Hash, error) { return v1.NewHash(l.layer.Descriptor.Digest.String()) }
func (l *toLayer) DiffID() (v1.Hash, error) { return v1.NewHash(l.layer.DiffID.String()) }
func (l *toLayer) Size() (int64, error)     { return l.layer.Descriptor.Size, nil }
func (l *toLayer) MediaType() (types.MediaType, error) {
	return types.MediaType(l.layer.Descriptor.MediaType), nil
}

// Compressed implements v1.Layer. The reader ends in an *image.DigestError if the blob is not what it should be.
func (l *toLayer) Compressed() (io.ReadCloser, error) { return l.layer.Open(l.ctx) }

// Descriptor keeps annotations and URLs where go-containerregistry makes a manifest anew.
func (l *toLayer) Descriptor() (*v1.Descriptor, error) { return fromDescriptor(l.layer.Descriptor) }

// Uncompressed implements v1.Layer. The reader ends in an *image.DigestError if the tar stream does not have the diffID.
func (l *toLayer) Uncompressed() (io.ReadCloser, error) {
	// Go-containerregistry knows how to inflate; without Uncompressed of its own, ours is a layer to it that is compressed.
	plain, err := partial.CompressedToLayer(compressedOnly{l})
	if err != nil {
		return nil, err
	}
	rc, err := plain.Uncompressed()
	if err != nil {
		return nil, err
	}
	return &diffIDReader{ReadCloser: rc, want: l.layer.DiffID, hash: l.layer.DiffID.Algorithm().Hash()}, nil
}

// compressedOnly hides what a layer has beside partial.CompressedLayer.
type compressedOnly struct{ partial.CompressedLayer }

// diffIDReader compares what has been read with a diffID.
type diffIDReader struct {
	io.ReadCloser
	want digest.Digest
	hash hash.Hash
	n    int64
}

func (r *diffIDReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.n += int64(n)
	r.hash.Write(p[:n])
	if err != io.EOF {
		return n, err
	}
	if got := digest.NewDigest(r.want.Algorithm(), r.hash); got != r.want {
		return n, &image.DigestError{Descriptor: image.Descriptor{Digest: r.want, Size: r.n}, Got: got, GotSize: r.n}
	}
	return n, io.EOF
}
