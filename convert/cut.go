package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/convert/internal/index"
	"hpcimg/image"
	"hpcimg/sif"
)

// cut says where a squashfs or SIF file is to be cut.
type cut struct {
	file     io.ReaderAt
	size     int64
	head     int64   // of it, before the segments
	segments []int64 // sizes; what follows them is the tail
	artifact string  // type of it
}

// blobs cuts the file and completes the manifest.
func (c *cut) blobs(manifest *image.Manifest) ([]blob, error) {
	whole, err := digestOf(c.file, 0, c.size)
	if err != nil {
		return nil, err
	}
	manifest.ArtifactType = c.artifact
	manifest.Annotations = map[string]string{
		AnnotationFileDigest: whole.String(), AnnotationFileSize: strconv.FormatInt(c.size, 10),
	}
	var blobs []blob
	off := int64(0)
	add := func(n int64, role string) error {
		if n == 0 {
			return nil
		}
		b, err := c.blob(off, n, role)
		blobs = append(blobs, b)
		off += n
		return err
	}
	if err := add(c.head, "header"); err != nil {
		return nil, err
	}
	for _, n := range c.segments {
		if err := add(n, "segment"); err != nil {
			return nil, err
		}
	}
	return blobs, add(c.size-off, "tables")
}

func (c *cut) blob(off, n int64, role string) (blob, error) {
	d, err := digestOf(c.file, off, n)
	if err != nil {
		return blob{}, err
	}
	b := blob{
		file: c.file, off: off, size: n, digest: d, diffID: d, mediaType: MediaTypeSegment,
		annotations: map[string]string{AnnotationSegmentOffset: strconv.FormatInt(off, 10), AnnotationSegmentRole: role},
	}
	if n >= dataAlign {
		d, err := digestOf(c.file, off, dataAlign)
		if err != nil {
			return blob{}, err
		}
		b.annotations[AnnotationSegmentFirst] = d.String()
	}
	return b, nil
}

// CutSIF makes an image of a SIF file as it is, in segments, to be pushed: its layers are parts of the file. One that hpcimg has made
// is cut where its layers are, so that versions have most segments in common; of any other the partition is one segment. The file
// must not change before the image is closed.
func CutSIF(ctx context.Context, path string) (*BuiltImage, error) {
	f, b, err := openSIF(path)
	if err != nil {
		return nil, failure(StageOpen, SideSource, err)
	}
	if err := b.cut(ctx, f, path); err != nil {
		_ = b.Close()
		return nil, failure(StageOpen, SideSource, err)
	}
	return b, nil
}

func openSIF(path string) (*sif.File, *BuiltImage, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("%w: not a regular file", fs.ErrInvalid)}
	}
	var f *sif.File
	if err == nil {
		f, err = sif.NewFile(file, info.Size())
	}
	if err != nil {
		_ = file.Close()
		return nil, nil, err
	}
	return f, &BuiltImage{closer: file}, nil
}

func (b *BuiltImage) cut(ctx context.Context, f *sif.File, path string) error {
	partition, err := f.Primary()
	if err != nil {
		return err
	}
	// Of what is in the file only its description is of use here.
	source, err := FromSIF(f)
	if err != nil {
		return err
	}
	c := &cut{file: f, size: f.Size(), head: partition.Offset, artifact: ArtifactTypeSIFSegments}
	bundle, err := bundleOf(f)
	switch {
	case partition.Offset%dataAlign != 0:
		return fmt.Errorf("%w: the partition of %s begins at %d, which is no multiple of %d", errors.ErrUnsupported, path, partition.Offset, dataAlign)
	case err == nil && len(bundle.Layers) > 0:
		err = c.atLayers(bundle, partition)
	case err == nil || errors.Is(err, errNoReuse):
		c.segments, err = []int64{partition.Size - partition.Size%dataAlign}, nil
	}
	if err != nil {
		return err
	}
	o, err := (&Options{Form: FormSIF}).withDefaults(path)
	if err != nil {
		return err
	}
	j := newJob(source, nil, o)
	defer j.close()
	manifest := newManifest()
	blobs, err := c.blobs(manifest)
	if err != nil {
		return err
	}
	if b.Image, err = j.describe(ctx, blobs, manifest); err != nil {
		return err
	}
	j.result.Size, j.result.Digest, j.result.Arch = f.Size(), b.Descriptor().Digest, source.arch
	b.Result = j.end()
	return nil
}

// atLayers cuts at the segments that the index of a SIF file names.
func (c *cut) atLayers(bundle *index.Bundle, partition sif.Object) error {
	end := int64(dataStart)
	c.head = partition.Offset + dataStart
	for i := range bundle.Layers {
		l := &bundle.Layers[i]
		s, err := index.DecodeSegment(l.Segment, -1)
		if err != nil {
			return err
		}
		// Layers without a diffID are not in the index: they make a segment of their own with what is before the next.
		if l.Offset < end || l.Offset%dataAlign != 0 || l.Offset > partition.Size || s.Pack.Size%dataAlign != 0 || s.Pack.Size > partition.Size-l.Offset {
			return fmt.Errorf("%w: segment outside of the image", index.ErrFormat)
		}
		c.segments = append(c.segments, l.Offset-end, s.Pack.Size)
		end = l.Offset + s.Pack.Size
	}
	return nil
}

// BuiltArtifact is an artifact whose blobs are in a file, until it is closed.
type BuiltArtifact struct {
	*image.Artifact
	closer io.Closer
}

// Close closes the file. Blobs cannot be opened any more.
func (b *BuiltArtifact) Close() error { return b.closer.Close() }

// SIFArtifact makes an artifact of a SIF file, as Apptainer and SingularityCE push and pull it: one layer that is the file. Title is the name
// that a tool is to give the file, without a path. The file must not change before the artifact is closed.
func SIFArtifact(ctx context.Context, path, title string) (*BuiltArtifact, error) {
	f, b, err := openSIF(path)
	if err != nil {
		return nil, failure(StageOpen, SideSource, err)
	}
	a, err := sifArtifact(ctx, f, title)
	if err != nil {
		_ = b.Close()
		return nil, failure(StageOpen, SideSource, err)
	}
	return &BuiltArtifact{Artifact: a, closer: b.closer}, nil
}

func sifArtifact(ctx context.Context, f *sif.File, title string) (*image.Artifact, error) {
	h := digest.SHA256.Digester()
	if _, err := io.Copy(h.Hash(), ctxReads{ctx, io.NewSectionReader(f, 0, f.Size())}); err != nil {
		return nil, err
	}
	source := blobSource{h.Digest(): {file: f, size: f.Size()}}
	manifest := image.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Layers: []image.Descriptor{{MediaType: MediaTypeSIFLayer, Digest: h.Digest(), Size: f.Size()}},
	}
	if title != "" {
		manifest.Layers[0].Annotations = map[string]string{ocispec.AnnotationTitle: title}
	}
	var err error
	if manifest.Config, err = source.add(MediaTypeSIFConfig, struct{}{}); err != nil {
		return nil, err
	}
	root, err := source.add(ocispec.MediaTypeImageManifest, manifest)
	if err != nil {
		return nil, err
	}
	return image.NewArtifact(ctx, root, source, nil)
}
