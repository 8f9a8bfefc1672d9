package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/image/registry"
)

// registryInput opens an image in layers, or a SIF file in a registry.
func (f *flags) registryInput(ctx context.Context, src string) (*convert.Source, io.Closer, error) {
	source, _, err := f.openRemote(ctx, src)
	if err != nil {
		return nil, nil, err
	}
	return source, io.NopCloser(nil), nil
}

// openRemote is registryInput with the manifest that it has found.
func (f *flags) openRemote(ctx context.Context, src string) (*convert.Source, image.Descriptor, error) {
	opts, err := f.imageOptions()
	if err != nil {
		return nil, image.Descriptor{}, err
	}
	if strings.HasPrefix(src, "oras://") {
		a, err := image.OpenArtifact(ctx, src, opts)
		if err != nil {
			return nil, image.Descriptor{}, err
		}
		if err := f.checkManifest(ctx, a.Reference(), a.Descriptor()); err != nil {
			return nil, image.Descriptor{}, err
		}
		f.noteOffline(a.Reference(), a.Descriptor(), a.Remembered())
		source, err := convert.FromArtifact(a)
		return source, a.Descriptor(), err
	}
	img, err := image.Open(ctx, src, opts)
	if err != nil {
		return nil, image.Descriptor{}, err
	}
	if err := f.checkManifest(ctx, img.Reference(), img.Root(), img.Descriptor()); err != nil {
		return nil, image.Descriptor{}, err
	}
	f.noteOffline(img.Reference(), img.Root(), img.Remembered())
	return convert.FromImage(img), img.Descriptor(), nil
}

// pusher pushes what has been opened.
type pusher func(ctx context.Context, ref string, opts *registry.PushOptions) (image.Descriptor, error)

func pushImage(img *image.Image) pusher {
	return func(ctx context.Context, ref string, opts *registry.PushOptions) (image.Descriptor, error) {
		return registry.Push(ctx, img, ref, opts)
	}
}

// pushInput opens what is to be pushed, or makes an image of it.
func (f *flags) pushInput(cmd *cobra.Command, src, dest string) (pusher, io.Closer, error) {
	if _, err := f.compressor(); err != nil {
		return nil, nil, err
	}
	if strings.HasPrefix(dest, "oras://") {
		return f.pushSIF(cmd, src, dest)
	}
	if _, err := image.ParseReference(src); err == nil && !cmd.Flags().Changed("layers") {
		opts, err := f.imageOptions()
		if err != nil {
			return nil, nil, err
		}
		img, err := image.Open(cmd.Context(), src, opts)
		if !errors.Is(err, errors.ErrUnsupported) || isRemote(src) {
			return pushImage(img), io.NopCloser(nil), err
		}
	}
	opts, err := f.convertOptions()
	if err != nil {
		return nil, nil, err
	}
	if opts.OCI.Layers, err = f.layerForm(); err != nil {
		return nil, nil, err
	}
	if path, ok := localSIF(src); ok && opts.OCI.Layers == convert.LayersSegments {
		img, err := convert.CutSIF(cmd.Context(), path)
		if err != nil {
			return nil, nil, err
		}
		return pushImage(img.Image), img, nil
	}
	if opts.Cache, err = f.openCache(cmd.ErrOrStderr()); err != nil {
		return nil, nil, err
	}
	input, closer, err := f.input(cmd.Context(), cmd.InOrStdin(), src)
	if err != nil {
		return nil, nil, err
	}
	defer closer.Close()
	img, err := convert.ToImage(cmd.Context(), input, opts)
	if err != nil {
		return nil, nil, formError(err)
	}
	return pushImage(img.Image), img, nil
}

// localSIF returns the path of a SIF file that a reference names, by its content if it is a bare path.
func localSIF(ref string) (string, bool) {
	path, named := strings.CutPrefix(ref, "sif:")
	if named {
		return path, true
	}
	file, err := os.Open(path)
	if err != nil {
		return "", false
	}
	defer file.Close()
	return path, looksLikeSIF(file)
}

// pushSIF opens a SIF file that is to be pushed as one piece.
func (f *flags) pushSIF(cmd *cobra.Command, src, dest string) (pusher, io.Closer, error) {
	if strings.HasPrefix(src, "oras://") {
		opts, err := f.imageOptions()
		if err != nil {
			return nil, nil, err
		}
		a, err := image.OpenArtifact(cmd.Context(), src, opts)
		if err != nil {
			return nil, nil, err
		}
		return pushArtifact(a), io.NopCloser(nil), nil
	}
	path, ok := localSIF(src)
	if !ok {
		return nil, nil, usagef("%s: only a SIF file goes to %s: make one with hpcimg convert", src, dest)
	}
	a, err := convert.SIFArtifact(cmd.Context(), path, filepath.Base(path))
	if err != nil {
		return nil, nil, err
	}
	return pushArtifact(a.Artifact), a, nil
}

func pushArtifact(a *image.Artifact) pusher {
	return func(ctx context.Context, ref string, opts *registry.PushOptions) (image.Descriptor, error) {
		return registry.PushArtifact(ctx, a, ref, opts)
	}
}

// remoteArtifact is `inspect --json` of a SIF file in a registry.
type remoteArtifact struct {
	Reference   string            `json:"reference"`
	Digest      digest.Digest     `json:"digest"`
	MediaType   string            `json:"mediaType"`
	Size        int64             `json:"size"`
	File        digest.Digest     `json:"file"` // of the SIF file
	Annotations map[string]string `json:"annotations,omitempty"`
}

// inspectArtifact prints what a SIF file in a registry says of itself. Of the file only the beginning is read, where all of that is, and for
// --layers and --json nothing but the manifest.
func (f *flags) inspectArtifact(cmd *cobra.Command, ref string, v inspectView) error {
	opts, err := f.imageOptions()
	if err != nil {
		return err
	}
	a, err := image.OpenArtifact(cmd.Context(), ref, opts)
	if err != nil {
		return err
	}
	if _, err := convert.FromArtifact(a); err != nil {
		return err
	}
	f.noteOffline(a.Reference(), a.Descriptor(), a.Remembered())
	l, out := a.Manifest().Layers[0], cmd.OutOrStdout()
	if f.json {
		d := a.Descriptor()
		return printJSON(out, remoteArtifact{a.Reference().String(), d.Digest, d.MediaType, l.Size, l.Digest, a.Manifest().Annotations})
	}
	if v.layers {
		if _, err := fmt.Fprintf(out, "%s %10s %s\n", l.Digest, byteCount(l.Size), printable(l.MediaType)); err != nil {
			return err
		}
		v.layers = false
	}
	if v == (inspectView{}) {
		return nil
	}
	file, end, err := headOf(cmd.Context(), a)
	if err != nil {
		return err
	}
	defer end()
	meta, err := file.sif.Metadata()
	if err != nil {
		return fmt.Errorf("%s: %w", file.path, err)
	}
	return f.printDescription(out, file, v, &meta.Data.Attributes)
}
