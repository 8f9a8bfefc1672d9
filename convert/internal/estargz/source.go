package estargz

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"hpcimg/convert/internal/layer"
)

const readBuffer = 256 << 10

// source reads the entries of a tar stream. It is an io.Reader of the contents of the current one.
type source struct {
	in  *input
	tar *tar.Reader
}

func newSource(ctx context.Context, r io.Reader, limit int64) *source {
	in := &input{ctx: ctx, limit: limit}
	in.buf = bufio.NewReaderSize(&in.raw, readBuffer)
	in.raw.in, in.raw.r = in, r
	return &source{in: in, tar: tar.NewReader(in)}
}

// input counts what is taken of a stream, and keeps its errors apart from those of the format.
type input struct {
	ctx    context.Context
	raw    rawInput
	buf    *bufio.Reader
	offset int64 // taken so far
	limit  int64
	err    error
}

type rawInput struct {
	in *input
	r  io.Reader
}

func (r *rawInput) Read(p []byte) (int, error) {
	if err := r.in.ctx.Err(); err != nil {
		r.in.err = err
		return 0, err
	}
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.in.err = err
	}
	return n, err
}

func (in *input) Read(p []byte) (int, error) {
	n, err := in.buf.Read(p)
	in.offset += int64(n)
	if in.offset > in.limit {
		in.err = &layer.LimitError{What: "bytes in a layer", Limit: in.limit}
		err = in.err
	}
	return n, err
}

// next returns the header of the next entry that the blob is to have, or io.EOF once the whole stream has been read.
func (s *source) next() (*header, error) {
	for {
		h, err := s.tar.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, s.error(err)
		}
		c, err := newHeader(h)
		if err != nil {
			return nil, &layer.EntryError{Name: h.Name, Err: err}
		}
		if c != nil {
			return c, nil
		}
		// Contents that are left out are read all the same, so that errors in them do not depend on the kind of stream.
		if _, err := io.Copy(io.Discard, s); err != nil {
			return nil, err
		}
	}
	// Who verifies the stream does so at its end.
	if _, err := io.Copy(io.Discard, s.in); err != nil {
		return nil, s.error(err)
	}
	return nil, io.EOF
}

// Read reads the contents of the current entry.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.tar.Read(p)
	if err != nil && err != io.EOF {
		err = s.error(err)
	}
	return n, err
}

// error says why the tar reader has failed: because of the stream below it, or because that is no tar.
func (s *source) error(err error) error {
	if s.in.err == nil {
		// A stream that is not what its digest says is to be reported as that.
		_, _ = io.Copy(io.Discard, s.in)
	}
	if s.in.err != nil {
		return s.in.err
	}
	return fmt.Errorf("%w: %w", layer.ErrFormat, err)
}
