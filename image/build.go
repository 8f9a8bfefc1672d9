package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// LayerInput is a layer for [Build]: a tar archive in memory, or a blob that exists elsewhere.
type LayerInput struct {
	// Tar is an uncompressed tar archive, which Build stores as Compression says. Unknown means gzip.
	Tar []byte
	// Blob opens the layer as it is to be stored, compressed as Compression says; used if Tar is nil. Build reads it once to learn
	// its digests, and the image opens it again for every reader. Unknown means that Build looks at the first bytes.
	Blob func() (io.ReadCloser, error)
	// Compression of the stored blob.
	Compression Compression
}

// Build makes an image of a config and layers, bottom first. The config's RootFS is filled in; its platform defaults to linux on the
// architecture of this program. The same input gives the same image.
func Build(config Config, layers ...LayerInput) (*Image, error) {
	img, err := build(config, layers)
	if err != nil {
		return nil, fmt.Errorf("image: build: %w", err)
	}
	return img, nil
}

func build(config Config, inputs []LayerInput) (*Image, error) {
	source := memorySource{}
	var layers []Descriptor
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	if config.OS == "" {
		config.OS = "linux"
	}
	if config.Architecture == "" {
		config.Architecture = runtime.GOARCH
	}
	for i, in := range inputs {
		d, diffID, err := source.add(in)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		layers = append(layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
	}
	rawConfig, err := marshalDocument(config)
	if err != nil {
		return nil, err
	}
	manifest := newManifest(describe(ocispec.MediaTypeImageConfig, rawConfig), layers)
	if layers == nil {
		manifest.Layers = []Descriptor{}
	}
	rawManifest, err := marshalDocument(manifest)
	if err != nil {
		return nil, err
	}
	root := describe(ocispec.MediaTypeImageManifest, rawManifest)
	source[manifest.Config.Digest] = opener(rawConfig)
	source[root.Digest] = opener(rawManifest)
	// Loading checks what we built like anybody else's image.
	platform := config.Platform
	return load(context.Background(), root, source, (&Options{Platform: &platform}).withDefaults())
}

// memorySource opens what was built by digest.
type memorySource map[digest.Digest]func() (io.ReadCloser, error)

func (s memorySource) Open(_ context.Context, d Descriptor) (io.ReadCloser, error) {
	open, ok := s[d.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, fs.ErrNotExist)
	}
	return open()
}

func opener(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return bytesReader(b), nil }
}

func (s memorySource) add(in LayerInput) (Descriptor, digest.Digest, error) {
	switch {
	case in.Tar != nil:
		return s.addTar(in.Tar, in.Compression)
	case in.Blob != nil:
		return s.addBlob(in)
	}
	return Descriptor{}, "", errors.New("has neither Tar nor Blob")
}

func (s memorySource) addTar(tar []byte, c Compression) (Descriptor, digest.Digest, error) {
	if c == CompressionUnknown {
		c = CompressionGzip
	}
	blob, err := compress(tar, c)
	if err != nil {
		return Descriptor{}, "", err
	}
	d := describe(layerType(c), blob)
	s[d.Digest] = opener(blob)
	return d, digest.FromBytes(tar), nil
}

func compress(tar []byte, c Compression) ([]byte, error) {
	var out bytes.Buffer
	var w io.WriteCloser
	switch c {
	case CompressionNone:
		return bytes.Clone(tar), nil
	case CompressionGzip:
		w = gzip.NewWriter(&out)
	case CompressionZstd:
		enc, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		w = enc
	default:
		return nil, fmt.Errorf("compression %d: %w", c, errors.ErrUnsupported)
	}
	if _, err := w.Write(tar); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func layerType(c Compression) string {
	switch c {
	case CompressionNone:
		return ocispec.MediaTypeImageLayer
	case CompressionZstd:
		return ocispec.MediaTypeImageLayerZstd
	}
	return ocispec.MediaTypeImageLayerGzip
}

// addBlob reads a blob once for its digests.
func (s memorySource) addBlob(in LayerInput) (Descriptor, digest.Digest, error) {
	rc, err := in.Blob()
	if err != nil {
		return Descriptor{}, "", err
	}
	defer rc.Close()
	blob := &tally{r: rc, digester: digest.SHA256.Digester()}
	head := make([]byte, 4)
	n, err := io.ReadFull(blob, head)
	if err != nil && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
		return Descriptor{}, "", err
	}
	c := in.Compression
	if c == CompressionUnknown {
		c = sniff(head[:n])
	}
	plain, err := decompress(io.MultiReader(bytes.NewReader(head[:n]), blob), c)
	if err != nil {
		return Descriptor{}, "", err
	}
	defer plain.Close()
	diffID, err := digest.SHA256.FromReader(plain)
	if err != nil {
		return Descriptor{}, "", err
	}
	// What follows the compressed data belongs to the blob as well.
	if _, err := io.Copy(io.Discard, blob); err != nil {
		return Descriptor{}, "", err
	}
	d := Descriptor{MediaType: layerType(c), Digest: blob.digester.Digest(), Size: blob.n}
	s[d.Digest] = in.Blob
	return d, diffID, nil
}

// sniff finds the compression of a layer by its first bytes.
func sniff(head []byte) Compression {
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		return CompressionGzip
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		return CompressionZstd
	}
	return CompressionNone
}

func decompress(r io.Reader, c Compression) (io.ReadCloser, error) {
	switch c {
	case CompressionNone:
		return io.NopCloser(r), nil
	case CompressionGzip:
		return gzip.NewReader(r)
	case CompressionZstd:
		dec, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return dec.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("compression %d: %w", c, errors.ErrUnsupported)
}

// tally counts and hashes what is read through it.
type tally struct {
	r        io.Reader
	digester digest.Digester
	n        int64
}

func (t *tally) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.n += int64(n)
	t.digester.Hash().Write(p[:n])
	return n, err
}
