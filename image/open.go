package image

import (
	"context"
	"errors"
	"fmt"
)

// Open finds the image that ref names. It reads manifests and the config, no layers. Errors: *[ReferenceError],
// fs.ErrNotExist for a repository, tag, directory or file that is not there, *[UnauthorizedError], *[TransportError],
// *[PlatformError], *[DocumentError], *[DigestError], *[LimitError], and errors.ErrUnsupported for what is valid but no image.
func Open(ctx context.Context, ref string, opts *Options) (*Image, error) {
	r, err := ParseReference(ref)
	if err != nil {
		return nil, err
	}
	return OpenReference(ctx, r, opts)
}

// OpenReference is Open for a reference that is parsed already, or put together by the caller. It is validated like a parsed one.
func OpenReference(ctx context.Context, ref Reference, opts *Options) (*Image, error) {
	if err := ref.validate(); err != nil {
		return nil, &ReferenceError{Reference: clip(ref.String(), 300), Err: err}
	}
	img, err := open(ctx, ref, opts.withDefaults())
	if re, ok := errors.AsType[*ReferenceError](err); ok {
		return nil, re // names the reference already
	}
	if err != nil {
		return nil, bound(clip(ref.String(), 500), err)
	}
	img.ref = ref
	return img, nil
}

func open(ctx context.Context, ref Reference, o Options) (*Image, error) {
	switch ref.Transport {
	case TransportDocker:
		return openRemote(ctx, ref, o)
	case TransportOCI:
		return openLayout(ctx, dirFiles(ref.Path), ref, o)
	case TransportOCIArchive:
		files, err := openArchive(ctx, ref.Path, o)
		if err != nil {
			return nil, err
		}
		return openLayout(ctx, files, ref, o)
	case TransportDockerArchive:
		files, err := openArchive(ctx, ref.Path, o)
		if err != nil {
			return nil, err
		}
		return openDockerArchive(ctx, files, ref, o)
	case TransportDockerDaemon:
		return openDaemon(ctx, ref, o)
	case TransportORAS, TransportSIF:
		return nil, unsupported("a SIF file is not an image in layers; package sif reads it")
	case TransportSquashfs:
		return nil, unsupported("a squashfs file is not an image in layers; package squashfs reads it")
	case TransportTar, TransportDir:
		return nil, unsupported("a plain root file system is not an image in layers; package convert takes it as a source")
	}
	return nil, unsupported("unknown transport") // validate has refused it
}

func unsupported(why string) error { return fmt.Errorf("%w: %s", errors.ErrUnsupported, why) }
