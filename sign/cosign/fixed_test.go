package cosign_test

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"

	"hpcimg/image"
)

// fixed is a registry that answers everything with the same bytes.
type fixed []byte

func (f fixed) Manifest(context.Context, string) (image.Descriptor, []byte, error) {
	return image.Descriptor{Digest: digest.FromBytes(f), Size: int64(len(f))}, f, nil
}

func (f fixed) Blob(context.Context, string, image.Descriptor) ([]byte, error) { return f, nil }

func (f fixed) PutBlob(context.Context, string, string, []byte) (image.Descriptor, error) {
	return image.Descriptor{}, errors.ErrUnsupported
}

func (f fixed) PutManifest(context.Context, string, string, []byte) (image.Descriptor, error) {
	return image.Descriptor{}, errors.ErrUnsupported
}
