package convert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/convert/internal/estargz"
	"hpcimg/convert/internal/export"
	"hpcimg/convert/internal/layer"
	"hpcimg/image"
	"hpcimg/internal/atomicfile"
	"hpcimg/squashfs"
)

// LayerForm is what the layers of an OCI image are.
type LayerForm string

// The forms of layers.
const (
	LayersTar      LayerForm = "tar"      // one layer, a tar stream compressed by gzip or zstd, or plain
	LayersEstargz  LayerForm = "estargz"  // one layer, a gzip tar of which nodes fetch what they read
	LayersSquashfs LayerForm = "squashfs" // one layer, a squashfs, as in the OCI-SIF of SingularityCE
	LayersSegments LayerForm = "segments" // a squashfs in pieces, of which versions have most in common
)

// Media types and annotations of layers that are not tar streams. See docs/formats/segments.md for segments.
const (
	MediaTypeSquashfsLayer  = "application/vnd.sylabs.image.layer.v1.squashfs"
	MediaTypeSegment        = "application/vnd.hpcimg.squashfs.segment.v1"
	ArtifactTypeSegments    = "application/vnd.hpcimg.squashfs.v1"
	ArtifactTypeSIFSegments = "application/vnd.hpcimg.sif.v1"

	AnnotationSegmentOffset   = "vnd.hpcimg.segment.offset"
	AnnotationSegmentRole     = "vnd.hpcimg.segment.role"
	AnnotationSegmentFirst    = "vnd.hpcimg.segment.first"
	AnnotationFileDigest      = "vnd.hpcimg.file.digest"
	AnnotationFileSize        = "vnd.hpcimg.file.size"
	annotationTOCDigest       = "containerd.io/snapshot/stargz/toc.digest"
	annotationUncompressedLen = "io.containers.estargz.uncompressed-size"
)

// BuiltImage is an image whose layers are in temporary files, until it is closed.
type BuiltImage struct {
	*image.Image
	Result *Result
	closer io.Closer
}

// Close removes the files. Layers cannot be opened any more.
func (b *BuiltImage) Close() error { return b.closer.Close() }

// ToImage makes an OCI image from src, with the layers that Options.OCI asks for, to be pushed or written somewhere. Its blobs are
// in Options.TempDir, by default the system's. Of Options.Form only FormSIF with LayersSegments has a meaning: the segments are then those
// of a SIF file, not of a squashfs. The caller closes the image.
func ToImage(ctx context.Context, src *Source, opts *Options) (*BuiltImage, error) {
	o := Options{}
	if opts != nil {
		o = *opts
	}
	if o.Form != FormSIF || o.OCI.Layers != LayersSegments {
		o.Form = FormOCI
	}
	if o.TempDir == "" {
		o.TempDir = os.TempDir()
	}
	o, err := o.withDefaults("")
	if err != nil {
		return nil, failure(StageOpen, "", err)
	}
	elsewhere := o
	elsewhere.Form = FormOCI // even a file in segments is read, and cut anew
	src, fetched, err := resolve(ctx, src, elsewhere)
	if err != nil {
		return nil, err
	}
	defer fetched.Close()
	j := newJob(src, nil, o)
	defer j.close()
	b, err := j.image(ctx)
	if err != nil {
		return nil, failure(StageWrite, SideDestination, err)
	}
	b.Result = j.end()
	return b, nil
}

// blob is a layer in the making.
type blob struct {
	file        io.ReaderAt
	off, size   int64
	digest      digest.Digest
	diffID      digest.Digest
	mediaType   string
	annotations map[string]string
	copied      func(n int64) // what of it has been read
}

// image makes the layers and what describes them.
func (j *job) image(ctx context.Context) (*BuiltImage, error) {
	b := &BuiltImage{}
	manifest := newManifest()
	make := j.tarLayer
	if !j.opts.OCI.Layers.isTar() {
		make = j.squashfsLayers
	}
	blobs, err := make(ctx, b, manifest)
	if err == nil {
		b.Image, err = j.describe(ctx, blobs, manifest)
	}
	if err != nil {
		if b.closer != nil {
			_ = b.Close()
		}
		return nil, failure(StageWrite, SideDestination, err)
	}
	j.result.Digest = b.Descriptor().Digest
	j.result.Size = 0
	for _, l := range blobs {
		j.result.Size += l.size
	}
	return b, nil
}

func (f LayerForm) isTar() bool { return f == LayersTar || f == LayersEstargz }

// tarLayer makes one layer that is a tar stream.
func (j *job) tarLayer(ctx context.Context, b *BuiltImage, _ *image.Manifest) ([]blob, error) {
	temp, err := newTempFile(j.opts.TempDir)
	if err != nil {
		return nil, err
	}
	b.closer = temp
	var l blob
	err = j.view(ctx, func(r *squashfs.Reader) (err error) {
		l, err = j.tarBlob(ctx, temp, r)
		return err
	})
	l.file = temp
	return []blob{l}, err
}

// squashfsLayers writes a squashfs as to anywhere else, and cuts it.
func (j *job) squashfsLayers(ctx context.Context, b *BuiltImage, manifest *image.Manifest) ([]blob, error) {
	out, err := atomicfile.Create(filepath.Join(j.opts.TempDir, "layer.squashfs"), nil) // a name that it never gets
	if err != nil {
		return nil, err
	}
	b.closer = out
	j.out, j.ready = out, j.opts.Form != FormSIF
	if err := j.run(ctx); err != nil {
		return nil, err
	}
	return j.cut(out, j.result.Size, manifest)
}

// tarBlob writes a layer that is a tar stream. If eStargz cannot have it, it becomes one that is just compressed.
func (j *job) tarBlob(ctx context.Context, w *tempFile, r *squashfs.Reader) (blob, error) {
	if j.opts.OCI.Layers != LayersEstargz {
		return j.compressedBlob(ctx, w, r)
	}
	b, err := j.estargzBlob(ctx, w, r)
	if !errors.Is(err, errors.ErrUnsupported) {
		return b, err
	}
	if err := w.Truncate(0); err != nil {
		return blob{}, err
	}
	if _, err := w.Seek(0, io.SeekStart); err != nil {
		return blob{}, err
	}
	path, reason := "", err
	if entry, ok := errors.AsType[*EntryError](err); ok {
		path, reason = entry.Name, entry.Err
	}
	j.warnings.Note(layer.Code(WarnEstargz), path, reason.Error())
	return j.compressedBlob(ctx, w, r)
}

// tarStream is a tree as a tar stream. Once it is closed nobody reads the tree any more.
type tarStream struct {
	*io.PipeReader
	done chan struct{}
}

func (j *job) tarStream(ctx context.Context, r *squashfs.Reader) *tarStream {
	pr, pw := io.Pipe()
	s := &tarStream{pr, make(chan struct{})}
	go func() {
		defer close(s.done)
		pw.CloseWithError(j.tar(ctx, pw, r))
	}()
	return s
}

// Close implements io.Closer.
func (s *tarStream) Close() error {
	err := s.PipeReader.Close()
	<-s.done
	return err
}

func (j *job) estargzBlob(ctx context.Context, w io.Writer, r *squashfs.Reader) (blob, error) {
	stream := j.tarStream(ctx, r)
	defer stream.Close()
	res, err := estargz.Write(ctx, w, stream, &estargz.Options{
		Level: j.opts.layerLevel, Workers: j.opts.Workers, Prioritized: j.opts.OCI.Prioritized, SpoolDir: j.opts.TempDir,
	})
	if err != nil {
		return blob{}, err
	}
	return blob{
		size: res.Size, digest: res.Digest, diffID: res.DiffID, mediaType: ocispec.MediaTypeImageLayerGzip,
		annotations: map[string]string{
			annotationTOCDigest: res.TOCDigest.String(), annotationUncompressedLen: strconv.FormatInt(res.UncompressedSize, 10),
		},
	}, nil
}

func (j *job) compressedBlob(ctx context.Context, w io.Writer, r *squashfs.Reader) (blob, error) {
	stream := j.tarStream(ctx, r)
	defer stream.Close()
	c := export.Gzip
	switch j.opts.layerCompression {
	case squashfs.CompressionZstd:
		c = export.Zstd
	case squashfs.CompressionNone:
		c = export.None
	}
	if j.opts.OCI.Layers == LayersEstargz {
		c = export.Gzip
	}
	res, err := export.Compress(ctx, w, stream, c, j.opts.layerLevel, j.opts.Workers)
	if err != nil {
		return blob{}, err
	}
	return blob{size: res.Size, digest: res.Digest, diffID: res.DiffID, mediaType: c.MediaType()}, nil
}

// cut makes layers of a squashfs, which is one, or of a squashfs or SIF file in segments.
func (j *job) cut(f io.ReaderAt, size int64, manifest *image.Manifest) ([]blob, error) {
	if j.opts.OCI.Layers == LayersSquashfs {
		whole, err := digestOf(f, 0, size)
		if err != nil {
			return nil, failure(StageWrite, SideDestination, err)
		}
		return []blob{{file: f, size: size, digest: whole, diffID: whole, mediaType: MediaTypeSquashfsLayer}}, nil
	}
	c := cut{file: f, size: size, head: j.base + dataStart, artifact: ArtifactTypeSegments}
	if j.opts.Form == FormSIF {
		c.artifact = ArtifactTypeSIFSegments
	}
	for _, l := range j.result.Layers {
		c.segments = append(c.segments, l.Segment)
	}
	blobs, err := c.blobs(manifest)
	return blobs, failure(StageWrite, SideDestination, err)
}

func digestOf(f io.ReaderAt, off, n int64) (digest.Digest, error) {
	return digest.FromReader(io.NewSectionReader(f, off, n))
}

// describe makes config and manifest.
func (j *job) describe(ctx context.Context, blobs []blob, manifest *image.Manifest) (*image.Image, error) {
	source := blobSource{}
	config := j.src.config
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	config.History = nil
	var created *time.Time
	if t := time.Unix(int64(j.modTime), 0).UTC(); j.modTime > 0 {
		created = &t
	}
	config.Created = created
	if config.OS == "" {
		config.OS = "linux"
	}
	if config.Architecture == "" {
		if config.Architecture = j.result.Arch; config.Architecture == "" {
			config.Architecture = runtime.GOARCH
		}
	}
	for _, b := range blobs {
		d := image.Descriptor{MediaType: b.mediaType, Digest: b.digest, Size: b.size, Annotations: b.annotations}
		manifest.Layers = append(manifest.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, b.diffID)
		config.History = append(config.History, ocispec.History{Created: created, CreatedBy: "hpcimg convert"})
		b.copied = func(n int64) {
			if j.copying != nil {
				j.copying.Add(n)
			}
		}
		source[b.digest] = b
	}
	var err error
	if manifest.Config, err = source.add(ocispec.MediaTypeImageConfig, config); err != nil {
		return nil, err
	}
	root, err := source.add(ocispec.MediaTypeImageManifest, manifest)
	if err != nil {
		return nil, err
	}
	return image.New(ctx, root, source, &image.Options{Platform: &config.Platform})
}

// blobSource opens blobs that are in files and in memory.
type blobSource map[digest.Digest]blob

func (s blobSource) Open(_ context.Context, d image.Descriptor) (io.ReadCloser, error) {
	b, ok := s[d.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, fs.ErrNotExist)
	}
	var r io.Reader = io.NewSectionReader(b.file, b.off, b.size)
	if b.copied != nil {
		r = countingReader{r, b.copied}
	}
	return io.NopCloser(r), nil
}

// countingReader says how much is read.
type countingReader struct {
	r     io.Reader
	count func(n int64)
}

func (c countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.count(int64(n))
	return n, err
}

func (s blobSource) add(mediaType string, document any) (image.Descriptor, error) {
	raw, err := json.Marshal(document)
	if err != nil {
		return image.Descriptor{}, err
	}
	d := image.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	s[d.Digest] = blob{file: memoryBlob(raw), size: d.Size}
	return d, nil
}

// memoryBlob is a blob in memory.
type memoryBlob []byte

func (m memoryBlob) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(m)) {
		return 0, fs.ErrInvalid
	}
	n := copy(p, m[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
