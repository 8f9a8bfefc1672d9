package image_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"

	"hpcimg/image"
)

// served is a source whose layer is something else than it should be.
type served struct {
	blobs
	layer digest.Digest
	open  func() io.ReadCloser
}

func (s served) Open(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
	if d.Digest == s.layer {
		return s.open(), nil
	}
	return s.blobs.Open(ctx, d)
}

func TestLayerVerification(t *testing.T) {
	const content = "layer"
	broken := errors.New("cable pulled")
	for _, tc := range []struct {
		name string
		r    io.Reader
		want error
		size int64 // GotSize of the DigestError; 0: no DigestError
	}{
		{"right", strings.NewReader(content), nil, 0},
		{"right, byte by byte", iotest.OneByteReader(strings.NewReader(content)), nil, 0},
		{"right, EOF with the data", iotest.DataErrReader(strings.NewReader(content)), nil, 0},
		{"other content", strings.NewReader("Layer"), image.ErrDigest, 5},
		{"other content, EOF with the data", iotest.DataErrReader(strings.NewReader("Layer")), image.ErrDigest, 5},
		{"truncated", strings.NewReader("lay"), io.ErrUnexpectedEOF, 3},
		{"truncated is a digest error", strings.NewReader("lay"), image.ErrDigest, 3},
		{"empty", strings.NewReader(""), io.ErrUnexpectedEOF, -1},
		{"one byte more", strings.NewReader(content + "!"), image.ErrDigest, 6},
		{"endless", endless{}, image.ErrDigest, 6},
		{"source fails", io.MultiReader(strings.NewReader("lay"), iotest.ErrReader(broken)), broken, 0},
		{"source fails behind the end", io.MultiReader(strings.NewReader(content), iotest.ErrReader(broken)), broken, 0},
		{"source never ends", io.MultiReader(strings.NewReader(content), stuck{}), io.ErrNoProgress, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := blobs{}
			root := manifestOf("", "", "")(b)
			src := served{b, digest.FromString(content), func() io.ReadCloser { return io.NopCloser(tc.r) }}
			img, err := image.New(t.Context(), root, src, amd64())
			if err != nil {
				t.Fatal(err)
			}
			rc, err := img.Layers()[0].Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer rc.Close()
			var got bytes.Buffer
			_, err = io.Copy(&got, rc)
			if !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
			if got.Len() > len(content) {
				t.Errorf("reader yielded %d of %d bytes", got.Len(), len(content))
			}
			if n, again := rc.Read(make([]byte, 1)); n != 0 || (err == nil) != (again == io.EOF) {
				t.Errorf("Read after the end: %d, %v", n, again)
			}
			de, ok := errors.AsType[*image.DigestError](err)
			if ok != (tc.size != 0) || (ok && de.GotSize != max(tc.size, 0)) {
				t.Errorf("error %#v, want GotSize %d", err, tc.size)
			}
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	return copy(p, bytes.Repeat([]byte("layer"), len(p)/5+1)), nil
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

func TestOpenBlobRefusesBadDescriptor(t *testing.T) {
	img := sample(t)
	d := img.Layers()[0].Descriptor
	for _, bad := range []image.Descriptor{
		{},
		{MediaType: d.MediaType, Digest: "sha256:../x", Size: d.Size},
		{MediaType: d.MediaType, Digest: d.Digest, Size: -1},
		{MediaType: "", Digest: d.Digest, Size: 1},
		{MediaType: d.MediaType, Digest: d.Digest, Size: 2, Data: []byte("no")},
	} {
		if _, err := img.OpenBlob(t.Context(), bad); !errors.Is(err, image.ErrFormat) {
			t.Errorf("%+v: %v, want ErrFormat", bad, err)
		}
	}
	rc, err := img.OpenBlob(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if n, err := io.Copy(io.Discard, rc); n != d.Size || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
}
