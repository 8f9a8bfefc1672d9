package convert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/convert/internal/layer"
	"hpcimg/image"
	"hpcimg/sif"
	"hpcimg/squashfs"
)

const (
	// maxRootIndex is far more than the index of an image and its signatures takes.
	maxRootIndex = 4 << 20
	// cosignPrefix begins the names of signatures and attestations in the index of an OCI-SIF.
	cosignPrefix = "_cosign:"
	// mediaTypeExt3Layer is a writable layer, which SingularityCE may put above the others.
	mediaTypeExt3Layer = "application/vnd.sylabs.image.layer.v1.ext3"
)

// OCIImage returns the image in an OCI-SIF. Its layers are verified as they are read; f must stay open as long. A SIF file of another kind is
// fs.ErrNotExist. See docs/formats/oci-sif.md.
func OCIImage(f *sif.File) (*image.Image, error) {
	if !isOCISIF(f) {
		return nil, failure(StageOpen, SideSource, fmt.Errorf("the file is no OCI-SIF: %w", fs.ErrNotExist))
	}
	img, _, err := openOCISIF(f)
	return img, failure(StageOpen, SideSource, err)
}

// fromOCISIF converts the image in an OCI-SIF.
func fromOCISIF(f *sif.File) (*Source, error) {
	img, blobs, err := openOCISIF(f)
	if err != nil {
		return nil, err
	}
	s := &Source{config: img.Config(), arch: img.Platform().Architecture, definition: "bootstrap: scratch\n", manifest: img.Descriptor()}
	for _, l := range img.Layers() {
		switch media := l.Descriptor.MediaType; {
		case l.Compression() != image.CompressionUnknown:
			s.layers = append(s.layers, imageLayer{l})
		case media == MediaTypeSquashfsLayer:
			o, ok := blobs[l.Descriptor.Digest]
			if !ok {
				return nil, fmt.Errorf("layer %s: %w", l.Descriptor.Digest, fs.ErrNotExist)
			}
			r, err := squashfs.NewReader(o.Open(), o.Size, nil)
			if err != nil {
				return nil, fmt.Errorf("layer %s: %w", l.Descriptor.Digest, err)
			}
			s.layers = append(s.layers, overlayLayer{squashfsLayer{r}, l})
		case media == mediaTypeExt3Layer:
			return nil, fmt.Errorf("%w: the image has a writable layer (ext3): seal it (singularity overlay seal)", errors.ErrUnsupported)
		default:
			return nil, fmt.Errorf("%w: media type %q is not that of a layer", errors.ErrUnsupported, media)
		}
	}
	return s, nil
}

// isOCISIF reports whether a file is an OCI-SIF: one with a root index and without a partition to run.
func isOCISIF(f *sif.File) bool {
	_, err := f.Primary()
	_, ok := rootIndexOf(f)
	return ok && errors.Is(err, fs.ErrNotExist)
}

func rootIndexOf(f *sif.File) (sif.Object, bool) {
	for _, o := range f.Objects() {
		if o.Type == sif.DataOCIRootIndex {
			return o, true
		}
	}
	return sif.Object{}, false
}

// openOCISIF opens the one image that is no signature.
func openOCISIF(f *sif.File) (*image.Image, sifBlobs, error) {
	blobs := make(sifBlobs)
	for _, o := range f.Objects() {
		if o.Type == sif.DataOCIBlob {
			blobs[digest.Digest(o.Digest())] = o
		}
	}
	root, _ := rootIndexOf(f)
	if root.Size > maxRootIndex {
		return nil, nil, &LimitError{What: "bytes in the root index", Limit: maxRootIndex}
	}
	raw, err := io.ReadAll(root.Open())
	if err != nil {
		return nil, nil, err
	}
	want := image.Descriptor{Digest: digest.Digest(root.Digest()), Size: root.Size}
	if err := want.Digest.Validate(); err != nil {
		return nil, nil, fmt.Errorf("%w: digest of the root index: %w", ErrFormat, err)
	}
	if got := want.Digest.Algorithm().FromBytes(raw); got != want.Digest {
		return nil, nil, fmt.Errorf("root index: %w", &image.DigestError{Descriptor: want, Got: got, GotSize: root.Size})
	}
	var index image.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, nil, fmt.Errorf("%w: root index: %w", ErrFormat, err)
	}
	var images []image.Descriptor
	for _, d := range index.Manifests {
		if !strings.HasPrefix(d.Annotations[ocispec.AnnotationRefName], cosignPrefix) {
			images = append(images, d)
		}
	}
	if len(images) != 1 {
		return nil, nil, fmt.Errorf("%w: %d images in an OCI-SIF", errors.ErrUnsupported, len(images))
	}
	// Whatever it is for: nobody has asked for a platform.
	img, err := image.New(context.Background(), images[0], blobs, nil)
	if other, ok := errors.AsType[*image.PlatformError](err); ok && len(other.Have) == 1 {
		img, err = image.New(context.Background(), images[0], blobs, &image.Options{Platform: &other.Have[0]})
	}
	return img, blobs, err
}

// sifBlobs are the blobs of an OCI-SIF by what the file says that their digests are. Whoever reads them verifies that.
type sifBlobs map[digest.Digest]sif.Object

func (s sifBlobs) Open(_ context.Context, d image.Descriptor) (io.ReadCloser, error) {
	o, ok := s[d.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, fs.ErrNotExist)
	}
	return io.NopCloser(o.Open()), nil
}

// overlayLayer is a layer that is a squashfs, and has what overlayfs understands where tar streams have whiteouts.
type overlayLayer struct {
	squashfsLayer
	image.Layer
}

func (l overlayLayer) again() bool           { return true } // it is verified every time
func (l overlayLayer) describe() LayerResult { return imageLayer{l.Layer}.describe() }

// open begins to read the tree, and beside it to verify the blob that it is in.
func (l overlayLayer) open(ctx context.Context, j *job, o *opening) (entryReader, error) {
	entries, err := l.squashfsLayer.open(ctx, j, o)
	if err != nil {
		return nil, err
	}
	tree := entries.(*squashfsEntries)
	tree.overlay = true
	ctx, cancel := context.WithCancel(ctx)
	v := &verifiedEntries{squashfsEntries: tree, cancel: cancel, verified: make(chan struct{})}
	go func() {
		defer close(v.verified)
		v.err = l.verify(ctx)
	}()
	return v, nil
}

func (l overlayLayer) verify(ctx context.Context) error {
	if l.DiffID != l.Descriptor.Digest {
		return fmt.Errorf("%w: the diffID of a layer that is a squashfs is not its digest", ErrFormat)
	}
	blob, err := l.Layer.Open(ctx)
	if err != nil {
		return err
	}
	defer blob.Close()
	_, err = io.Copy(io.Discard, ctxReads{ctx, blob})
	return err
}

// ctxReads ends between two reads.
type ctxReads struct {
	ctx context.Context //nolint:containedctx // io.Reader has no other place for it
	r   io.Reader
}

func (c ctxReads) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// verifiedEntries are the entries of a tree that is being verified.
type verifiedEntries struct {
	*squashfsEntries
	cancel   context.CancelFunc
	verified chan struct{} // closed when err is known
	err      error
}

// Next returns io.EOF only once the blob is known to be what it should be. If it is not, that is the reason for whatever is
// wrong in it.
func (v *verifiedEntries) Next() (layer.Entry, error) {
	e, err := v.squashfsEntries.Next()
	if err == nil || v.ctx.Err() != nil {
		return e, err
	}
	<-v.verified
	if v.err != nil {
		return e, v.err
	}
	return e, err
}

// Close implements entryReader.
func (v *verifiedEntries) Close() error {
	v.cancel()
	<-v.verified
	return nil
}
