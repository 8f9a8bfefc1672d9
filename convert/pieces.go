package convert

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"

	"hpcimg/image"
	"hpcimg/image/cache"
	"hpcimg/sif"
)

// Media types of a SIF file in a registry, as Apptainer and SingularityCE push and pull them with oras://.
const (
	MediaTypeSIFConfig = "application/vnd.sylabs.sif.config.v1+json"
	MediaTypeSIFLayer  = "application/vnd.sylabs.sif.layer.v1.sif"

	// mediaTypeOldSIFLayer is what Singularity pushed before version 3.7, spelling included.
	mediaTypeOldSIFLayer = "appliciation/vnd.sylabs.sif.layer.tar"
)

// pieces are a file in a registry: blobs that are the file when they stand one behind the other. See docs/formats.
type pieces struct {
	form   Form
	list   []piece
	size   int64
	digest digest.Digest // of the file; "" if there is but one piece
	name   digest.Digest // of the manifest
	open   func(ctx context.Context, d image.Descriptor) (io.ReadCloser, error)
}

type piece struct {
	image.Descriptor
	off   int64
	first *[sha256.Size]byte // hash of its first block, if the manifest has it
}

// FromArtifact converts a SIF file that is in a registry. Converted to a SIF file it stays as it is, to the last byte and signature,
// unless Options ask for something else than they do by default. Any other artifact is errors.ErrUnsupported.
func FromArtifact(a *image.Artifact) (*Source, error) {
	m := a.Manifest()
	if len(m.Layers) != 1 || m.Layers[0].MediaType != MediaTypeSIFLayer && m.Layers[0].MediaType != mediaTypeOldSIFLayer {
		return nil, failure(StageOpen, SideSource, notSIF(m))
	}
	l := m.Layers[0]
	p := &pieces{form: FormSIF, list: []piece{{Descriptor: l}}, size: l.Size, name: a.Descriptor().Digest, open: a.OpenBlob}
	return &Source{pieces: p, definition: sif.DefinitionFor("oras", a.Reference().String())}, nil
}

func notSIF(m image.Manifest) error {
	kind := m.ArtifactType
	if kind == "" {
		kind = m.Config.MediaType
	}
	return &image.DocumentError{Document: "manifest", Field: "layers", Err: fmt.Errorf(
		"%w: %d layers of an artifact of type %q: want one that is a SIF file; an image in layers is reached with docker://",
		errors.ErrUnsupported, len(m.Layers), kind)}
}

// piecesOf returns the pieces that the layers of an image are, or nil if they are none.
func piecesOf(img *image.Image) (*pieces, error) {
	m := img.Manifest()
	p := &pieces{name: img.Descriptor().Digest, open: img.OpenBlob}
	switch {
	case m.ArtifactType == ArtifactTypeSegments:
		p.form = FormSquashfs
	case m.ArtifactType == ArtifactTypeSIFSegments:
		p.form = FormSIF
	case len(m.Layers) == 1 && m.Layers[0].MediaType == MediaTypeSquashfsLayer:
		p.form, p.size = FormSquashfs, m.Layers[0].Size
		p.list = []piece{{Descriptor: m.Layers[0]}}
		return p, nil
	default:
		if slices.ContainsFunc(m.Layers, func(l image.Descriptor) bool { return l.MediaType == MediaTypeSegment }) {
			return nil, manifestError("artifactType", "is %q, which no file in segments has", m.ArtifactType)
		}
		return nil, nil
	}
	if err := p.read(m); err != nil {
		return nil, err
	}
	for i, id := range img.Config().RootFS.DiffIDs {
		if id != m.Layers[i].Digest {
			return nil, &image.DocumentError{
				Document: "config", Field: fmt.Sprintf("rootfs.diff_ids[%d]", i), Err: errors.New("is not the digest of the segment"),
			}
		}
	}
	return p, nil
}

// read checks all that the manifest says of the file: that there is no hole in it and nothing twice, and that it is as long as it
// should be.
func (p *pieces) read(m image.Manifest) error {
	if len(m.Layers) == 0 {
		return manifestError("layers", "are none")
	}
	size, err := number(m.Annotations, AnnotationFileSize)
	if err != nil {
		return manifestError("annotations."+AnnotationFileSize, "%w", err)
	}
	p.digest = digest.Digest(m.Annotations[AnnotationFileDigest])
	if err := p.digest.Validate(); err != nil {
		return manifestError("annotations."+AnnotationFileDigest, "%w", err)
	}
	for i, l := range m.Layers {
		field := fmt.Sprintf("layers[%d]", i)
		if l.MediaType != MediaTypeSegment {
			return manifestError(field+".mediaType", "is %q among segments", l.MediaType)
		}
		if l.Size == 0 || l.Size > size-p.size || i < len(m.Layers)-1 && l.Size%dataAlign != 0 {
			return manifestError(field+".size", "%d does not fit at %d in a file of %d bytes", l.Size, p.size, size)
		}
		off, err := number(l.Annotations, AnnotationSegmentOffset)
		if err == nil && off != p.size {
			err = fmt.Errorf("is %d behind segments of %d bytes", off, p.size)
		}
		if err != nil {
			return manifestError(field+".annotations."+AnnotationSegmentOffset, "%w", err)
		}
		one := piece{Descriptor: l, off: off}
		if text, ok := l.Annotations[AnnotationSegmentFirst]; ok {
			if one.first, err = firstBlock(text); err != nil {
				return manifestError(field+".annotations."+AnnotationSegmentFirst, "%w", err)
			}
		}
		p.list = append(p.list, one)
		p.size += l.Size
	}
	if p.size != size {
		return manifestError("annotations."+AnnotationFileSize, "is %d, but the segments have %d bytes", size, p.size)
	}
	return nil
}

func manifestError(field, format string, args ...any) error {
	return &image.DocumentError{Document: "manifest", Field: field, Err: fmt.Errorf(format, args...)}
}

// number returns an annotation that is one, in the only way to write it.
func number(annotations map[string]string, name string) (int64, error) {
	text, ok := annotations[name]
	if !ok {
		return 0, errors.New("is missing")
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != text {
		return 0, fmt.Errorf("%.40q is not a size in bytes", text)
	}
	return n, nil
}

func firstBlock(text string) (*[sha256.Size]byte, error) {
	d := digest.Digest(text)
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("%.100q is not a SHA-256", text)
	}
	raw, err := hex.DecodeString(d.Encoded())
	if err != nil {
		return nil, err
	}
	return (*[sha256.Size]byte)(raw), nil
}

// wanted reports whether the file is what the options ask for, so that it need not be made anew.
func (p *pieces) wanted(o *Options) bool {
	plain := o.Compression == 0 && o.Level == 0 && o.BlockSize == 0 && !o.AllRoot
	return o.Form == p.form && plain && o.SIF.Definition == "" && len(o.SIF.Labels) == 0
}

// plan says what it takes to fetch the pieces.
func (p *pieces) plan(ctx context.Context, dst string, o Options) *Forecast {
	f := &Forecast{Form: p.form, Size: p.size, Exact: len(o.Reuse) == 0, Space: []Space{{Dir: filepath.Dir(dst), Need: p.size}}}
	f.Space[0].Free = freeSpace(f.Space[0].Dir)
	for _, one := range p.list {
		l := LayerForecast{Digest: one.Digest, Size: one.Size, Segment: one.Size, Index: OriginSource, SegmentFrom: OriginSource}
		if o.Cache != nil {
			if e, err := o.Cache.Get(ctx, cache.KindBlob, blobKey(one.Digest)); err == nil {
				_ = e.Close()
				l.Index, l.SegmentFrom = OriginCache, OriginCache
			}
		}
		if l.SegmentFrom == OriginCache {
			f.Copy += one.Size
		} else {
			f.Download += one.Size
		}
		f.Layers = append(f.Layers, l)
	}
	return f
}
