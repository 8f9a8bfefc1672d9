package image

import (
	"bytes"
	"context"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
)

// openBlob opens content and puts verification around it. Content embedded in the descriptor needs no source; validDescriptor has
// verified it.
func openBlob(ctx context.Context, source Source, d Descriptor) (io.ReadCloser, error) {
	if d.Data != nil {
		return bytesReader(d.Data), nil
	}
	rc, err := source.Open(ctx, d)
	if err != nil {
		return nil, transportError(err)
	}
	if _, verified := rc.(*cachedBlob); verified {
		return rc, nil
	}
	return newVerifier(rc, d), nil
}

// readBlob reads content whose size the caller has found acceptable.
func readBlob(ctx context.Context, source Source, d Descriptor) ([]byte, error) {
	rc, err := openBlob(ctx, source, d)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	// Not sized by the descriptor: the content may be shorter than it claims.
	return io.ReadAll(rc)
}

// verifier passes on a blob and compares its size and digest at the end.
type verifier struct {
	source io.ReadCloser
	want   Descriptor
	hash   hash.Hash
	n      int64
	err    error // of every Read from here on
}

func newVerifier(rc io.ReadCloser, want Descriptor) *verifier {
	return &verifier{source: rc, want: bare(want), hash: want.Digest.Algorithm().Hash()}
}

func (v *verifier) Read(p []byte) (int, error) {
	if v.err != nil || len(p) == 0 {
		return 0, v.err
	}
	left := v.want.Size - v.n
	if left == 0 {
		v.err = v.finish()
		return 0, v.err
	}
	if int64(len(p)) > left {
		p = p[:left]
	}
	n, err := v.source.Read(p)
	v.n += int64(n)
	v.hash.Write(p[:n])
	switch {
	case err == io.EOF && v.n < v.want.Size:
		v.err = v.mismatch()
	case err == io.EOF:
		v.err = v.verdict()
	case err != nil:
		v.err = transportError(err)
	}
	return n, v.err
}

// finish is called when all bytes are there: one more would be too many.
func (v *verifier) finish() error {
	var probe [1]byte
	for range 100 { // as many empty reads as bufio puts up with
		n, err := v.source.Read(probe[:])
		switch {
		case n > 0:
			return &DigestError{Descriptor: v.want, GotSize: v.want.Size + 1}
		case err == io.EOF:
			return v.verdict()
		case err != nil:
			return transportError(err)
		}
	}
	return io.ErrNoProgress
}

// verdict is io.EOF for the right content.
func (v *verifier) verdict() error {
	if v.digest() != v.want.Digest {
		return v.mismatch()
	}
	return io.EOF
}

func (v *verifier) mismatch() error {
	return &DigestError{Descriptor: v.want, Got: v.digest(), GotSize: v.n}
}

func (v *verifier) digest() digest.Digest {
	return digest.NewDigest(v.want.Digest.Algorithm(), v.hash)
}

func (v *verifier) Close() error { return v.source.Close() }

// bytesReader reads content that is in memory.
func bytesReader(b []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(b)) }
