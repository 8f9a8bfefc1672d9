package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Artifact is a manifest whose config need not be that of an image: a SIF file in a registry, a signature, a list of what is in an
// image. Like an [Image] it does not change and may be used by many goroutines.
type Artifact struct {
	ref         Reference
	descriptor  Descriptor
	manifest    Manifest
	rawManifest []byte
	source      Source
	remembered  time.Time
}

// OpenArtifact finds the manifest that a docker://, oras://, oci: or oci-archive: reference names, whatever it is the manifest of.
// Nothing but that is read. An index is errors.ErrUnsupported, as nothing says which of its entries is meant; the other errors are
// those of [Open].
func OpenArtifact(ctx context.Context, ref string, opts *Options) (*Artifact, error) {
	r, err := ParseReference(ref)
	if err != nil {
		return nil, err
	}
	a, err := openArtifact(ctx, r, opts.withDefaults())
	if re, ok := errors.AsType[*ReferenceError](err); ok {
		return nil, re
	}
	if err != nil {
		return nil, bound(clip(r.String(), 500), err)
	}
	a.ref = r
	return a, nil
}

// NewArtifact reads the manifest that root names from a source of the caller's.
func NewArtifact(ctx context.Context, root Descriptor, source Source, opts *Options) (*Artifact, error) {
	if err := validDescriptor("descriptor", "root", root); err != nil {
		return nil, bound("new", err)
	}
	a, err := loadArtifact(ctx, root, source, opts.withDefaults())
	if err != nil {
		return nil, bound(root.Digest.String(), err)
	}
	return a, nil
}

func openArtifact(ctx context.Context, ref Reference, o Options) (*Artifact, error) {
	switch ref.Transport {
	case TransportDocker, TransportORAS:
		return openRemoteArtifact(ctx, ref, o)
	case TransportOCI:
		return openLayoutArtifact(ctx, dirFiles(ref.Path), ref, o)
	case TransportOCIArchive:
		files, err := openArchive(ctx, ref.Path, o)
		if err != nil {
			return nil, err
		}
		return openLayoutArtifact(ctx, files, ref, o)
	}
	return nil, unsupported("no artifacts are reached with " + string(ref.Transport) + ":")
}

func openLayoutArtifact(ctx context.Context, f files, ref Reference, o Options) (*Artifact, error) {
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
		return loadArtifact(ctx, root, source, o)
	}
	roots, err := findTag(f, index, ref)
	if err != nil {
		return nil, err
	}
	if len(roots) > 1 {
		return nil, &ReferenceError{Reference: clip(ref.String(), 300), Err: fmt.Errorf("there are %d artifacts: name one by its digest", len(roots))}
	}
	return loadArtifact(ctx, roots[0], source, o)
}

func loadArtifact(ctx context.Context, root Descriptor, source Source, o Options) (*Artifact, error) {
	if root.Size > o.Limits.ManifestBytes {
		return nil, &LimitError{What: "manifest bytes", Limit: o.Limits.ManifestBytes}
	}
	raw, err := readBlob(ctx, source, root)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	doc, err := parseDocument(raw, root.MediaType, o.Limits)
	if err != nil {
		return nil, err
	}
	if doc.index != nil {
		return nil, unsupported("an index is not one artifact: name one of its entries by its digest")
	}
	root.MediaType, root.Data = doc.mediaType, nil
	return &Artifact{descriptor: root, manifest: *doc.manifest, rawManifest: raw, source: source}, nil
}

// Reference returns what the artifact was opened as. It is the zero Reference for artifacts from NewArtifact.
func (a *Artifact) Reference() Reference { return a.ref }

// Remembered is that of [Image.Remembered].
func (a *Artifact) Remembered() time.Time { return a.remembered }

// Descriptor returns the descriptor of the manifest.
func (a *Artifact) Descriptor() Descriptor { return a.descriptor }

// Manifest returns the manifest. Its slices and maps are shared: they are for reading.
func (a *Artifact) Manifest() Manifest { return a.manifest }

// RawManifest returns the manifest as stored, which is what its digest is of.
func (a *Artifact) RawManifest() []byte { return bytes.Clone(a.rawManifest) }

// OpenBlob opens any content of the artifact's source, verified as [Layer.Open] does it.
func (a *Artifact) OpenBlob(ctx context.Context, d Descriptor) (io.ReadCloser, error) {
	return openContent(ctx, a.source, d)
}

// openContent opens content for the world outside.
func openContent(ctx context.Context, source Source, d Descriptor) (io.ReadCloser, error) {
	if err := validDescriptor("descriptor", "blob", d); err != nil {
		return nil, bound("blob", err)
	}
	rc, err := openBlob(ctx, source, d)
	if err != nil {
		return nil, bound(d.Digest.String(), err)
	}
	return rc, nil
}
