package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The documents of the OCI image specification, under the names this package uses for them.
type (
	Descriptor = ocispec.Descriptor
	Manifest   = ocispec.Manifest
	Index      = ocispec.Index
	Platform   = ocispec.Platform
	Config     = ocispec.Image
)

// Source gives the content that descriptors name, unverified: the image checks digests and sizes. Open is called from several
// goroutines; missing content is fs.ErrNotExist.
type Source interface {
	Open(ctx context.Context, d Descriptor) (io.ReadCloser, error)
}

// Image is one image for one platform: a manifest and a config, read and validated, and a source of layers. It does not change
// and may be used by many goroutines. It holds no open file or connection, so there is nothing to close.
type Image struct {
	ref         Reference
	root        Descriptor
	descriptor  Descriptor
	manifest    Manifest
	config      Config
	rawManifest []byte
	rawConfig   []byte
	layers      []Layer
	source      Source
	remembered  time.Time
}

// New reads the image that root names from a source of the caller's. Root may be a manifest, or an index from which the image for
// opts.Platform is chosen.
func New(ctx context.Context, root Descriptor, source Source, opts *Options) (*Image, error) {
	o := opts.withDefaults()
	if err := validDescriptor("descriptor", "root", root); err != nil {
		return nil, bound("new", err)
	}
	img, err := load(ctx, root, source, o)
	if err != nil {
		return nil, bound(root.Digest.String(), err)
	}
	return img, nil
}

// load finds the manifest for the platform below root and reads its config.
func load(ctx context.Context, root Descriptor, source Source, o Options) (*Image, error) {
	s := &selector{source: source, options: o}
	img, err := s.find(ctx, root, 0)
	if err != nil {
		return nil, err
	}
	if img == nil {
		return nil, &PlatformError{Want: *o.Platform, Have: s.have}
	}
	img.root = s.root
	o.Logger.DebugContext(ctx, "image chosen", "digest", img.descriptor.Digest, "platform", platformString(img.Platform()))
	return img, nil
}

// newImage completes an image from its manifest.
func newImage(ctx context.Context, d Descriptor, raw []byte, m Manifest, source Source, o Options) (*Image, error) {
	if !isConfig(m.Config.MediaType) {
		return nil, notAnImage(m)
	}
	if m.Config.Size > o.Limits.ConfigBytes {
		return nil, &LimitError{What: "config bytes", Limit: o.Limits.ConfigBytes}
	}
	rawConfig, err := readBlob(ctx, source, m.Config)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	config, err := parseConfig(rawConfig, len(m.Layers))
	if err != nil {
		return nil, err
	}
	img := &Image{
		descriptor: d, manifest: m, config: *config,
		rawManifest: raw, rawConfig: rawConfig, source: source,
	}
	img.descriptor.Data = nil
	for i, l := range m.Layers {
		img.layers = append(img.layers, Layer{Descriptor: l, DiffID: config.RootFS.DiffIDs[i], Index: i, image: img})
	}
	return img, nil
}

// notAnImage explains a manifest whose config is none of an image.
func notAnImage(m Manifest) error {
	hint := ""
	if m.Config.MediaType == mediaTypeSIFConfig || (len(m.Layers) == 1 && m.Layers[0].MediaType == mediaTypeSIFLayer) {
		hint = "; it is a SIF file: use oras://"
	}
	kind := m.ArtifactType
	if kind == "" {
		kind = m.Config.MediaType
	}
	return documentError("manifest", "config.mediaType", "%w: artifact of type %q is not an image in layers%s",
		errors.ErrUnsupported, clip(kind, 100), hint)
}

// Reference returns what the image was opened as. It is the zero Reference for images from New and Build.
func (m *Image) Reference() Reference { return m.ref }

// Remembered returns when a registry has last said that the image's tag leads to it, if nobody was asked now, see [Options].Offline. Else it is
// the zero time.
func (m *Image) Remembered() time.Time { return m.remembered }

// Root returns the descriptor of the document that the reference leads to: the index that the image was chosen from, if there was
// one, otherwise the same as Descriptor.
func (m *Image) Root() Descriptor { return m.root }

// Descriptor returns the descriptor of the manifest.
func (m *Image) Descriptor() Descriptor { return m.descriptor }

// Manifest returns the manifest. Its slices and maps are shared: they are for reading.
func (m *Image) Manifest() Manifest { return m.manifest }

// Config returns the config. Its slices and maps are shared: they are for reading.
func (m *Image) Config() Config { return m.config }

// RawManifest returns the manifest as stored, which is what its digest is of.
func (m *Image) RawManifest() []byte { return bytes.Clone(m.rawManifest) }

// RawConfig returns the config as stored.
func (m *Image) RawConfig() []byte { return bytes.Clone(m.rawConfig) }

// Layers returns the layers, bottom first.
func (m *Image) Layers() []Layer { return slices.Clone(m.layers) }

// Platform returns what the image runs on: what its config says, or its descriptor where the config is silent.
func (m *Image) Platform() Platform {
	p := m.config.Platform
	if p.OS == "" && p.Architecture == "" && m.descriptor.Platform != nil {
		p = *m.descriptor.Platform
	}
	return normalPlatform(p)
}

// OpenBlob opens any content of the image's source, verified like a layer. See [Layer.Open].
func (m *Image) OpenBlob(ctx context.Context, d Descriptor) (io.ReadCloser, error) {
	return openContent(ctx, m.source, d)
}

// Layer is one layer of an image.
type Layer struct {
	Descriptor Descriptor    // of the blob as stored
	DiffID     digest.Digest // of the uncompressed tar; the config claims it, who decompresses has to check it
	Index      int           // from the bottom, 0 first

	image *Image
}

// Open opens the blob as stored. The reader yields at most Descriptor.Size bytes and ends in io.EOF only if these were all and
// their digest is the descriptor's; otherwise in a *[DigestError], or the source's error. Bytes come before that is known: whoever
// uses them has to read on to the end before trusting them. URLs in the descriptor are never fetched.
func (l Layer) Open(ctx context.Context) (io.ReadCloser, error) {
	rc, err := openBlob(ctx, l.image.source, l.Descriptor)
	if err != nil {
		return nil, bound(fmt.Sprintf("layer %d", l.Index), err)
	}
	return rc, nil
}

// Compression is how a layer's tar is compressed.
type Compression int

// Compressions of layers.
const (
	CompressionUnknown Compression = iota // not a tar layer, or one of a kind that this package does not know
	CompressionNone
	CompressionGzip
	CompressionZstd
)

func (c Compression) String() string {
	switch c {
	case CompressionNone:
		return "none"
	case CompressionGzip:
		return "gzip"
	case CompressionZstd:
		return "zstd"
	}
	return "unknown"
}

// Compression returns what the media type says. Registries hold layers whose media type is wrong; readers should look at the first
// bytes as well.
func (l Layer) Compression() Compression {
	suffix, ok := tarSuffix(l.Descriptor.MediaType)
	switch {
	case !ok:
		return CompressionUnknown
	case suffix == "":
		return CompressionNone
	case suffix == "+gzip", suffix == ".gzip":
		return CompressionGzip
	case suffix == "+zstd", suffix == ".zstd":
		return CompressionZstd
	}
	return CompressionUnknown
}

// tarSuffix returns what follows the media type of an uncompressed tar layer.
func tarSuffix(mediaType string) (string, bool) {
	for _, base := range []string{
		ocispec.MediaTypeImageLayer, "application/vnd.oci.image.layer.nondistributable.v1.tar",
		mediaTypeDockerLayer, mediaTypeDockerForeign,
	} {
		if suffix, ok := strings.CutPrefix(mediaType, base); ok {
			return suffix, true
		}
	}
	return "", false
}
