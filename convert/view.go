package convert

import (
	"fmt"
	"io"
	"io/fs"
	"os"

	"hpcimg/squashfs"
)

// view is a squashfs that is nowhere in one piece: the segments are where they happen to be, the rest is in memory. From it
// the forms are made that are no squashfs, and nothing is written that is not part of them.
type view struct {
	parts []viewPart // in order
	head  [dataStart]byte
	start int64 // of tail
	tail  []byte
}

// viewPart is a segment.
type viewPart struct {
	off, size int64
	file      *os.File
	at        int64
}

// reader returns a reader of the image, once it is complete.
func (v *view) reader(size int64) (*squashfs.Reader, error) {
	return squashfs.NewReader(v, size, nil)
}

// WriteAt writes what is in memory.
func (v *view) WriteAt(p []byte, off int64) (int, error) {
	if off < dataStart {
		if int64(len(p)) > dataStart-off {
			return 0, fmt.Errorf("%w: write of %d bytes at %d", fs.ErrInvalid, len(p), off)
		}
		return copy(v.head[off:], p), nil
	}
	at := off - v.start
	if at < 0 {
		return 0, fmt.Errorf("%w: write at %d, in a segment", fs.ErrInvalid, off)
	}
	if need := int(at) + len(p); need > len(v.tail) {
		v.tail = append(v.tail, make([]byte, need-len(v.tail))...)
	}
	return copy(v.tail[at:], p), nil
}

// ReadAt reads from wherever it is.
func (v *view) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		m, err := v.readPart(p[n:], off+int64(n))
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (v *view) readPart(p []byte, off int64) (int, error) {
	switch {
	case off < 0:
		return 0, fs.ErrInvalid
	case off < dataStart:
		return copy(p, v.head[off:]), nil
	case off >= v.start:
		if off-v.start >= int64(len(v.tail)) {
			return 0, io.EOF
		}
		return copy(p, v.tail[off-v.start:]), nil
	}
	for i := range v.parts {
		s := &v.parts[i]
		if off >= s.off+s.size {
			continue
		}
		m, err := s.file.ReadAt(p[:min(int64(len(p)), s.off+s.size-off)], s.at+off-s.off)
		if m > 0 {
			return m, nil
		}
		return 0, cmpEOF(err)
	}
	return 0, io.ErrUnexpectedEOF
}
