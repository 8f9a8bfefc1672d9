package ggcr

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"hpcimg/image"
)

// FromImage returns an image of go-containerregistry as one of ours. Its manifest and config are read and validated now, its layers when
// somebody does. Errors are those of image.New, and those of v.
func FromImage(ctx context.Context, v v1.Image, opts *image.Options) (*image.Image, error) {
	root, err := describe(v)
	if err != nil {
		return nil, fmt.Errorf("ggcr: %w", err)
	}
	return image.New(ctx, root, &source{images: []v1.Image{v}}, opts)
}

// FromIndex returns the image for opts.Platform from an index of go-containerregistry, of which only what is on the way to it is read.
func FromIndex(ctx context.Context, x v1.ImageIndex, opts *image.Options) (*image.Image, error) {
	root, err := describe(x)
	if err != nil {
		return nil, fmt.Errorf("ggcr: %w", err)
	}
	return image.New(ctx, root, &source{indexes: []v1.ImageIndex{x}}, opts)
}

// document is an image or an index.
type document interface {
	MediaType() (types.MediaType, error)
	RawManifest() ([]byte, error)
}

func describe(d document) (image.Descriptor, error) {
	mediaType, err := d.MediaType()
	if err != nil {
		return image.Descriptor{}, err
	}
	raw, err := d.RawManifest()
	if err != nil {
		return image.Descriptor{}, err
	}
	return image.Descriptor{MediaType: string(mediaType), Digest: digest.FromBytes(raw), Size: int64(len(raw))}, nil
}

func fromDescriptor(d image.Descriptor) (*v1.Descriptor, error) {
	h, err := v1.NewHash(d.Digest.String())
	if err != nil {
		return nil, err
	}
	return &v1.Descriptor{
		MediaType: types.MediaType(d.MediaType), Digest: h, Size: d.Size,
		URLs: d.URLs, Annotations: d.Annotations, Data: d.Data, ArtifactType: d.ArtifactType,
	}, nil
}

// source finds content in images, and images in indexes, as far as those have been come by.
type source struct {
	mu      sync.Mutex
	indexes []v1.ImageIndex
	images  []v1.Image
}

// Open implements image.Source.
func (s *source) Open(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h, err := v1.NewHash(d.Digest.String())
	if err != nil {
		return nil, err
	}
	switch mediaType := types.MediaType(d.MediaType); {
	case mediaType.IsIndex():
		return s.index(h)
	case mediaType.IsImage():
		return s.manifest(h)
	}
	return s.blob(h)
}

// is reports whether a document has a digest.
func is(d interface{ Digest() (v1.Hash, error) }, h v1.Hash) bool {
	got, err := d.Digest()
	return err == nil && got == h
}

func rawOf(d document) (io.ReadCloser, error) {
	raw, err := d.RawManifest()
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(raw)), nil
}

func (s *source) index(h v1.Hash) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	missing := notFound(h)
	for _, x := range s.indexes {
		if is(x, h) {
			return rawOf(x)
		}
	}
	for _, x := range s.indexes {
		inner, err := x.ImageIndex(h)
		if err != nil {
			missing = err
			continue
		}
		s.indexes = append(s.indexes, inner)
		return rawOf(inner)
	}
	return nil, missing
}

func (s *source) manifest(h v1.Hash) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	missing := notFound(h)
	for _, v := range s.images {
		if is(v, h) {
			return rawOf(v)
		}
	}
	for _, x := range s.indexes {
		v, err := x.Image(h)
		if err != nil {
			missing = err
			continue
		}
		s.images = append(s.images, v)
		return rawOf(v)
	}
	return nil, missing
}

func (s *source) blob(h v1.Hash) (io.ReadCloser, error) {
	s.mu.Lock()
	images := append([]v1.Image(nil), s.images...)
	s.mu.Unlock()
	missing := notFound(h)
	for _, v := range images {
		if name, err := v.ConfigName(); err == nil && name == h {
			raw, err := v.RawConfigFile()
			if err != nil {
				return nil, err
			}
			return io.NopCloser(bytes.NewReader(raw)), nil
		}
		l, err := v.LayerByDigest(h)
		if err != nil {
			missing = err
			continue
		}
		return l.Compressed()
	}
	return nil, missing
}

func notFound(h v1.Hash) error { return fmt.Errorf("ggcr: %s: %w", h, fs.ErrNotExist) }
