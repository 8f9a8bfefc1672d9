package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"hpcimg/convert/internal/layer"
	"hpcimg/image"
	"hpcimg/internal/meter"
	"hpcimg/sif"
)

// Source is what a conversion starts from: an image, a directory or a tar stream. It is made by FromImage, FromDir or FromTar.
type Source struct {
	layers []layerSource // bottom first
	config image.Config
	// arch is "" if only the contents can tell.
	arch       string
	definition string
	baseName   string
	baseDigest string
	// image is what it is made of, if it is one, and reference what that was opened by.
	image     *image.Image
	reference string
	manifest  image.Descriptor // of the image; zero if it is none

	pieces *pieces // in place of layers: the file that the image is, in a registry
	err    error   // why the image cannot be converted
}

// layerSource is a layer to be read.
type layerSource interface {
	// open starts reading.
	open(ctx context.Context, j *job, o *opening) (entryReader, error)
	describe() LayerResult
	// again reports whether open may be called more than once.
	again() bool
}

// opening is what a reader of a layer needs.
type opening struct {
	task   *meter.Task
	budget *layer.Budget
	notes  *warnings // what belongs to the layer, however it is stored
}

// entryReader reads the entries of a layer and the contents of the current one. Next returns io.EOF at the end, once all that can
// be verified has been.
type entryReader interface {
	Next() (layer.Entry, error)
	io.Reader
	Close() error
	tarSize() int64
}

// FromImage converts an image. Its layers are read from the top, once each as a rule, and verified: blobs against their
// descriptors and tar streams against their diffIDs.
//
// An image whose layers are a squashfs or a SIF file, in one or in segments, is that file: converted to what it is, it is fetched
// and stays as it is, to the last byte, unless Options ask for something else than they do by default. Of segments, only those are
// fetched that are neither in Options.Cache nor in a file of Options.Reuse.
func FromImage(img *image.Image) *Source {
	s := &Source{config: img.Config(), arch: img.Platform().Architecture, image: img, manifest: img.Descriptor()}
	if s.pieces, s.err = piecesOf(img); s.pieces == nil || s.pieces.digest == "" {
		for _, l := range img.Layers() {
			s.layers = append(s.layers, imageLayer{l})
		}
	}
	s.name(img.Reference())
	return s
}

// Manifest returns the descriptor of the manifest of the image that a source is, and false for one that is none: a directory, a tar stream or one
// squashfs. It is what the conversion itself goes by, from which all that it reads of the image is verified, whatever becomes of the file meanwhile.
func (s *Source) Manifest() (image.Descriptor, bool) { return s.manifest, s.manifest.Digest != "" }

// name records what the image is called.
func (s *Source) name(ref image.Reference) {
	d := s.image.Descriptor().Digest.String()
	s.baseName, s.baseDigest, s.reference = "", "", ""
	if ref.Transport != "" {
		s.reference = ref.String()
	}
	switch ref.Transport {
	case "":
		s.definition = sif.DefinitionFor("oci", d)
	case image.TransportDocker:
		name := ref.String()[len("docker://"):]
		s.definition = sif.DefinitionFor("docker", name)
		s.baseName, s.baseDigest = name, d
	default:
		name := ref.String()[len(ref.Transport)+1:]
		s.definition = sif.DefinitionFor(string(ref.Transport), name)
	}
}

// FromTar converts a tar stream, plain or compressed by gzip or zstd, as if it were the only layer of an image. It can be
// converted once. r is read to its end, and may still be read for some time after a conversion that was cancelled.
func FromTar(r io.Reader) *Source {
	return &Source{layers: []layerSource{&tarLayer{r: r}}, definition: "bootstrap: scratch\n"}
}

// FromDir converts a directory of the host and all that lies in it: owners, devices, hard links and, on Linux, extended
// attributes. Files named like whiteouts are files. The image itself is left out if it is made in the directory.
func FromDir(root string) *Source {
	return &Source{layers: []layerSource{dirLayer{root}}, definition: sif.DefinitionFor("localimage", root)}
}

// scripts are those that a root file system which has been that of an image before brings along; nil of other sources.
func (s *Source) scripts() *sif.Attributes {
	if len(s.layers) != 1 {
		return nil
	}
	switch l := s.layers[0].(type) {
	case squashfsLayer:
		return sif.ReadAttributes(l.r)
	case dirLayer:
		root, err := os.OpenRoot(l.root)
		if err != nil {
			return nil // whoever reads it says so
		}
		defer root.Close()
		return sif.ReadAttributes(root.FS())
	}
	return nil
}

// created returns the time of creation that the config has, or the zero time.
func (s *Source) created() time.Time {
	if s.config.Created == nil {
		return time.Time{}
	}
	return *s.config.Created
}

// again reports whether all layers can be opened more than once.
func (s *Source) again() bool {
	for _, l := range s.layers {
		if !l.again() {
			return false
		}
	}
	return true
}

type imageLayer struct{ image.Layer }

func (l imageLayer) again() bool { return true }

func (l imageLayer) describe() LayerResult {
	return LayerResult{Digest: l.Descriptor.Digest, DiffID: l.DiffID, Size: l.Descriptor.Size}
}

func (l imageLayer) open(ctx context.Context, j *job, o *opening) (entryReader, error) {
	want := l.Compression()
	if l.Descriptor.MediaType == MediaTypeSquashfsLayer {
		return l.openSquashfs(ctx, j, o)
	}
	if want == image.CompressionUnknown {
		return nil, fmt.Errorf("%w: media type %q is not that of a layer", errors.ErrUnsupported, l.Descriptor.MediaType)
	}
	blob, err := l.Layer.Open(ctx)
	if err != nil {
		return nil, err
	}
	stream, err := layer.Open(countedBlob{o.task.Reader(blob), blob}, l.DiffID)
	if err != nil {
		return nil, err
	}
	if got := stream.Compression(); string(got) != compressionName(want) {
		j.warnings.Note(layer.NoteMediaType, l.Descriptor.Digest.String(), fmt.Sprintf("%s, not %s", got, compressionName(want)))
	}
	return &tarEntries{Tar: layer.NewTar(stream, o.budget, o.notes), stream: stream}, nil
}

func compressionName(c image.Compression) string {
	switch c {
	case image.CompressionGzip:
		return string(layer.Gzip)
	case image.CompressionZstd:
		return string(layer.Zstd)
	}
	return string(layer.Plain)
}

type countedBlob struct {
	io.Reader
	io.Closer
}

// tarEntries reads the entries of a tar stream.
type tarEntries struct {
	*layer.Tar
	stream *layer.Stream
}

func (t *tarEntries) Close() error   { return t.stream.Close() }
func (t *tarEntries) tarSize() int64 { return t.stream.Size() }

// tarLayer is a tar stream that can be read once.
type tarLayer struct {
	r    io.Reader
	used bool
}

func (l *tarLayer) again() bool           { return false }
func (l *tarLayer) describe() LayerResult { return LayerResult{} }

func (l *tarLayer) open(ctx context.Context, _ *job, o *opening) (entryReader, error) {
	if l.used {
		return nil, errors.New("the tar stream has been read before")
	}
	l.used = true
	stream, err := layer.Open(callerStream{o.task.Reader(ctxReader{ctx, l.r})}, "")
	if err != nil {
		return nil, err
	}
	return &tarEntries{Tar: layer.NewTar(stream, o.budget, o.notes), stream: stream}, nil
}

// ctxReader stops waiting for its reader once ctx has ended. What the reader still has under way it finishes by itself, in a
// buffer that nobody looks at any more.
type ctxReader struct {
	ctx context.Context //nolint:containedctx // io.Reader has no other place for it
	r   io.Reader
}

func (c ctxReader) Read(b []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := c.r.Read(b)
		done <- result{n, err}
	}()
	select {
	case r := <-done:
		return r.n, r.err
	case <-c.ctx.Done():
		return 0, c.ctx.Err()
	}
}

// callerStream is a reader that is not ours to close.
type callerStream struct{ io.Reader }

func (callerStream) Close() error { return nil }

// Stubborn implements layer.Stubborn.
func (callerStream) Stubborn() {}

// dirLayer is a directory of the host.
type dirLayer struct{ root string }

func (l dirLayer) again() bool           { return false } // it may have changed
func (l dirLayer) describe() LayerResult { return LayerResult{} }

func (l dirLayer) open(_ context.Context, j *job, o *opening) (entryReader, error) {
	var out fs.FileInfo
	if j.out != nil {
		var err error
		if out, err = j.out.Stat(); err != nil {
			return nil, err
		}
	}
	d, err := layer.OpenDir(l.root, out, o.budget, o.notes)
	if err != nil {
		return nil, err
	}
	return &dirEntries{DirReader: d, task: o.task}, nil
}

// dirEntries counts what it reads of a directory.
type dirEntries struct {
	*layer.DirReader
	task *meter.Task
}

func (d *dirEntries) Read(p []byte) (int, error) {
	n, err := d.DirReader.Read(p)
	d.task.Add(int64(n))
	return n, err
}

func (d *dirEntries) tarSize() int64 { return 0 }
