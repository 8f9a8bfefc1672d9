package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// annotationImageName is where containerd and newer Dockers put the whole name of an image in a layout.
const annotationImageName = "io.containerd.image.name"

// openLayout opens an image in an OCI image layout.
func openLayout(ctx context.Context, f files, ref Reference, o Options) (*Image, error) {
	index, err := readLayout(f, o.Limits)
	if err != nil {
		return nil, err
	}
	source := &layoutSource{files: f}
	if ref.Digest != "" {
		root, err := findDigest(f, index, ref.Digest)
		if err != nil {
			return nil, err
		}
		return load(ctx, root, source, o)
	}
	roots, err := findTag(f, index, ref)
	if err != nil {
		return nil, err
	}
	if len(roots) == 1 {
		return load(ctx, roots[0], source, o)
	}
	// The index of the layout is itself a choice between platforms.
	s := &selector{source: source, options: o}
	img, err := s.choose(ctx, roots, 0)
	if err != nil {
		return nil, err
	}
	if img == nil {
		return nil, &PlatformError{Want: *o.Platform, Have: s.have}
	}
	img.root = img.descriptor
	return img, nil
}

// readLayout reads oci-layout and index.json.
func readLayout(f files, limits Limits) (*Index, error) {
	raw, err := readFile(f, ocispec.ImageLayoutFile, "oci-layout", 64<<10)
	if err != nil {
		return nil, layoutError(f, err)
	}
	var version ocispec.ImageLayout
	if err := decode("oci-layout", raw, []string{"imageLayoutVersion"}, &version); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(version.Version, "1.") {
		return nil, documentError("oci-layout", "imageLayoutVersion", "%q is %w, want 1", clip(version.Version, 40), errors.ErrUnsupported)
	}
	raw, err = readFile(f, ocispec.ImageIndexFile, "index.json", limits.ManifestBytes)
	if err != nil {
		return nil, layoutError(f, err)
	}
	doc, err := parseDocument(raw, ocispec.MediaTypeImageIndex, limits)
	if err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	return doc.index, nil
}

// layoutError says that something is no layout, where the reason is only that a file is missing.
func layoutError(f files, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not an OCI image layout: %w", f.describe(), err)
	}
	return err
}

// findTag returns the entries of the index that a tag names, or all images if there is no tag and they are one choice.
func findTag(f files, index *Index, ref Reference) ([]Descriptor, error) {
	tag := ref.Tag
	var named []Descriptor
	tags := map[string]bool{}
	for _, d := range index.Manifests {
		name := d.Annotations[ocispec.AnnotationRefName]
		full := d.Annotations[annotationImageName]
		if tag == "" || name == tag || full == tag || ref.Transport == TransportDockerArchive && (sameDockerName(full, tag) || sameDockerName(name, tag)) {
			named = append(named, d)
		}
		if name != "" {
			tags[name] = true
		} else if full != "" {
			tags[full] = true
		}
	}
	switch {
	case len(named) == 0 && tag == "":
		return nil, fmt.Errorf("%s has no images: %w", f.describe(), fs.ErrNotExist)
	case len(named) == 0:
		return nil, fmt.Errorf("no tag %q in %s%s: %w", clip(tag, 80), f.describe(), listTags(tags), fs.ErrNotExist)
	case tag == "" && len(tags) > 1:
		return nil, ambiguous(ref, tags)
	}
	return named, nil
}

// ambiguous asks for a tag where there are several.
func ambiguous(ref Reference, tags map[string]bool) error {
	return &ReferenceError{
		Reference: clip(ref.String(), 300),
		Err:       fmt.Errorf("there are several images%s: name one", listTags(tags)),
	}
}

func listTags(tags map[string]bool) string {
	if len(tags) == 0 {
		return ""
	}
	var names []string
	for t := range tags {
		names = append(names, clip(t, 60))
	}
	slices.Sort(names)
	if len(names) > 10 {
		names = append(names[:10], "…")
	}
	return " (there are " + strings.Join(names, ", ") + ")"
}

// findDigest returns the entry for a digest. The document may stand below an index of the layout, so that no entry describes it;
// then its file does.
func findDigest(f files, index *Index, want digest.Digest) (Descriptor, error) {
	for _, d := range index.Manifests {
		if d.Digest == want {
			return d, nil
		}
	}
	rc, size, err := f.open(blobPath(want))
	if err != nil {
		return Descriptor{}, fmt.Errorf("no %s in %s: %w", want, f.describe(), fs.ErrNotExist)
	}
	_ = rc.Close()
	return Descriptor{MediaType: "application/octet-stream", Digest: want, Size: size}, nil
}

// blobPath is the path of a blob in a layout. The digest has been validated.
func blobPath(d digest.Digest) string {
	return "blobs/" + d.Algorithm().String() + "/" + d.Encoded()
}

// layoutSource reads the blobs of a layout.
type layoutSource struct {
	files files
}

func (s *layoutSource) Open(_ context.Context, d Descriptor) (io.ReadCloser, error) {
	rc, _, err := s.files.open(blobPath(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s is not in %s: %w", d.Digest, s.files.describe(), fs.ErrNotExist)
	}
	return rc, err
}

// marshalDocument encodes a document the way all of this package's documents are: compact, with Go's order of fields.
func marshalDocument(v any) ([]byte, error) {
	return json.Marshal(v)
}
