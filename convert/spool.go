package convert

import (
	"context"
	"errors"
	"io"
	"os"
)

// spool is a file for segments that have to wait for their place. Where the system allows it the file has no name, so
// that nothing can be left of it.
type spool struct {
	dir  string
	f    *os.File
	name string // if it still has one
	end  int64
}

// file returns the file, which is made when it is first needed.
func (s *spool) file() (*os.File, error) {
	if s.f != nil {
		return s.f, nil
	}
	f, err := os.CreateTemp(s.dir, ".hpcimg-spool-*")
	if err != nil {
		return nil, err
	}
	s.f = f
	if err := os.Remove(f.Name()); err != nil {
		s.name = f.Name()
	}
	return f, nil
}

func (s *spool) close() {
	if s.f == nil {
		return
	}
	_ = s.f.Close()
	if s.name != "" {
		_ = os.Remove(s.name)
	}
	s.f = nil
}

// copyTo copies n bytes at the offset from to dst at the offset to. On Linux it is copy_file_range, which file systems that can
// share blocks between files turn into that, because all offsets are aligned.
func (s *spool) copyTo(ctx context.Context, dst *os.File, to, from, n int64, progress func(int64)) error {
	const step = 64 << 20
	if _, err := dst.Seek(to, io.SeekStart); err != nil {
		return err
	}
	if _, err := s.f.Seek(from, io.SeekStart); err != nil {
		return err
	}
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		part, err := io.CopyN(dst, s.f, min(n, step))
		n -= part
		progress(part)
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return nil
}
