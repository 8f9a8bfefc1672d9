package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// WriteArchive writes an image as an OCI archive, a tar file of a layout that has nothing else, and returns the image's descriptor
// there. Without a tag it is the only image and needs no name.
//
// Blobs are verified while they are copied: after an error, what has been written is worthless. The same image gives the same bytes; the
// files in the archive have the time at which the image was created, or that of 1970.
func WriteArchive(ctx context.Context, w io.Writer, img *Image, tag string) (Descriptor, error) {
	entry := layoutEntry(img, tag)
	a := newArchiveWriter(ctx, w, img)
	if err := a.layout(img, entry); err != nil {
		return Descriptor{}, fmt.Errorf("image: write archive: %w", err)
	}
	return entry, nil
}

// WriteDockerArchive writes an image in the form that docker save writes, for docker load, podman load and skopeo. The name, such as
// python:3.12, is what the image is to be called there; "" is no name. Layers are stored as they are, which may be compressed.
// Layers that are not tar streams are errors.ErrUnsupported, names that an image cannot have are a *[ReferenceError].
//
// The file is an OCI archive at the same time. Otherwise it is like [WriteArchive].
func WriteDockerArchive(ctx context.Context, w io.Writer, img *Image, name string) error {
	if err := writeDockerArchive(ctx, w, img, name); err != nil {
		return fmt.Errorf("image: write docker archive: %w", err)
	}
	return nil
}

func writeDockerArchive(ctx context.Context, w io.Writer, img *Image, name string) error {
	tag, full, err := dockerName(name)
	if err != nil {
		return &ReferenceError{Reference: clip(name, 300), Err: err}
	}
	e := dockerEntry{Config: blobPath(img.manifest.Config.Digest), Layers: []string{}}
	for _, l := range img.layers {
		if l.Compression() == CompressionUnknown {
			return fmt.Errorf("layer %d: %w: %q is no tar stream", l.Index, errors.ErrUnsupported, clip(l.Descriptor.MediaType, 100))
		}
		e.Layers = append(e.Layers, blobPath(l.Descriptor.Digest))
	}
	entry := layoutEntry(img, tag)
	if full != "" {
		e.RepoTags = []string{full}
		entry.Annotations[annotationImageName] = full
	}
	raw, err := marshalDocument([]dockerEntry{e})
	if err != nil {
		return err
	}
	a := newArchiveWriter(ctx, w, img)
	if err := a.file("manifest.json", int64(len(raw)), bytes.NewReader(raw)); err != nil {
		return err
	}
	return a.layout(img, entry)
}

// dockerName returns the tag in the name of an image, and the name in full.
func dockerName(name string) (tag, full string, err error) {
	if name == "" {
		return "", "", nil
	}
	ref, err := parseRemote(TransportDocker, name)
	switch {
	case err != nil:
		return "", "", err
	case ref.Digest != "":
		return "", "", errors.New("an image cannot be given a digest as its name")
	}
	return ref.Tag, ref.Host + "/" + ref.Repository + ":" + ref.Tag, nil
}

// layoutEntry is what the index of a layout says of an image.
func layoutEntry(img *Image, tag string) Descriptor {
	entry := bare(img.descriptor)
	if p := img.Platform(); p.OS != "" && p.Architecture != "" {
		entry.Platform = &p
	}
	if tag != "" {
		entry.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
	}
	return entry
}

// archiveWriter writes the tar file of a layout.
type archiveWriter struct {
	ctx  context.Context //nolint:containedctx // of the one call that it lives for
	tar  *tar.Writer
	time time.Time
	have map[digest.Digest]bool
}

func newArchiveWriter(ctx context.Context, w io.Writer, img *Image) *archiveWriter {
	created := time.Unix(0, 0)
	if c := img.config.Created; c != nil && c.Unix() > 0 {
		created = time.Unix(c.Unix(), 0)
	}
	return &archiveWriter{ctx: ctx, tar: tar.NewWriter(w), time: created, have: make(map[digest.Digest]bool)}
}

// layout writes a layout with one image, to the end of the archive. What says what is in it comes first.
func (a *archiveWriter) layout(img *Image, entry Descriptor) error {
	index := Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []Descriptor{entry},
	}
	for _, f := range []struct {
		name     string
		document any
	}{
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
		{ocispec.ImageIndexFile, index},
	} {
		raw, err := marshalDocument(f.document)
		if err != nil {
			return err
		}
		if err := a.file(f.name, int64(len(raw)), bytes.NewReader(raw)); err != nil {
			return err
		}
	}
	if err := a.dir("blobs/"); err != nil {
		return err
	}
	if err := a.blob(img.descriptor, opener(img.rawManifest)); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if err := a.blob(img.manifest.Config, opener(img.rawConfig)); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	for _, l := range img.layers {
		open := func() (io.ReadCloser, error) { return openBlob(a.ctx, img.source, l.Descriptor) }
		if err := a.blob(l.Descriptor, open); err != nil {
			return fmt.Errorf("layer %d: %w", l.Index, err)
		}
	}
	return a.tar.Close()
}

// blob adds a blob, unless the archive has it. Layers may be equal.
func (a *archiveWriter) blob(d Descriptor, open func() (io.ReadCloser, error)) error {
	if a.have[d.Digest] {
		return nil
	}
	a.have[d.Digest] = true
	if alg := digest.Digest(d.Digest.Algorithm()); !a.have[alg] {
		a.have[alg] = true
		if err := a.dir("blobs/" + string(alg) + "/"); err != nil {
			return err
		}
	}
	rc, err := open()
	if err != nil {
		return err
	}
	defer rc.Close()
	return a.file(blobPath(d.Digest), d.Size, rc)
}

func (a *archiveWriter) dir(name string) error {
	return a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, ModTime: a.time})
}

func (a *archiveWriter) file(name string, size int64, r io.Reader) error {
	err := a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: a.time})
	if err != nil {
		return err
	}
	_, err = io.Copy(a.tar, &contextReader{ctx: a.ctx, r: r})
	return err
}
