package inflate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

const (
	gzipHeader  = 10
	gzipTrailer = 8
	gzipName    = 512 // longest name or comment, with its zero, as in compress/gzip

	flagHeaderCRC = 1 << 1
	flagExtra     = 1 << 2
	flagName      = 1 << 3
	flagComment   = 1 << 4

	window     = 32 << 10
	inputSize  = 256 << 10
	outputSize = 512 << 10 // one piece of output
	keepInput  = 8         // see Decoder.src
)

// A Reader inflates a gzip stream: one or more members (RFC 1952), which it joins. It reads ahead of what it needs. It
// must not be used by two goroutines at a time.
type Reader struct {
	d       Decoder // src is a part of in, dst is out
	r       io.Reader
	readErr error // r's last
	in      []byte
	offset  int64  // of in[0] in the stream
	out     []byte // the window, then a piece
	todo    []byte // of the piece, not handed over yet
	err     error  // what comes after todo
	crc     uint32 // of the member so far
	size    uint32 // of the member so far, modulo 1<<32
}

// NewGzipReader returns a Reader of the gzip stream r, having read the header of its first member. A stream of no bytes
// is a truncated one.
func NewGzipReader(r io.Reader) (*Reader, error) {
	z := new(Reader)
	if err := z.Reset(r); err != nil {
		return nil, err
	}
	return z, nil
}

// Reset makes z what [NewGzipReader] would return for r, but keeps its buffers. With a nil r it only lets go of the old one.
func (z *Reader) Reset(r io.Reader) error {
	if z.in == nil {
		z.in, z.out = make([]byte, inputSize), make([]byte, window+outputSize)
	}
	z.r, z.readErr = r, nil
	z.offset = 0
	z.todo = nil
	z.d.src, z.d.ip = z.in[:0], 0
	z.d.dst, z.d.op = z.out, 0
	if r == nil {
		z.err = io.EOF
		return nil
	}
	z.err = z.header()
	if z.err == io.EOF {
		z.err = z.corrupt(errTruncated)
	}
	return z.err
}

// Read inflates into p. What it returns is vouched for only once a later call returns [io.EOF].
func (z *Reader) Read(p []byte) (int, error) {
	for len(z.todo) == 0 {
		if z.err != nil {
			return 0, z.err
		}
		if len(p) == 0 {
			return 0, nil
		}
		z.next()
	}
	n := copy(p, z.todo)
	z.todo = z.todo[n:]
	return n, nil
}

// WriteTo hands the rest of the stream to w without a copy, in pieces of about 512 KiB. A piece is w's only until Write
// returns. What it has written is vouched for once it returns no error.
func (z *Reader) WriteTo(w io.Writer) (total int64, err error) {
	for {
		for len(z.todo) > 0 {
			n, err := w.Write(z.todo)
			if err == nil && n != len(z.todo) {
				err = io.ErrShortWrite
			}
			n = max(0, min(n, len(z.todo)))
			total += int64(n)
			z.todo = z.todo[n:]
			if err != nil {
				return total, err
			}
		}
		if z.err == io.EOF {
			return total, nil
		}
		if z.err != nil {
			return total, z.err
		}
		z.next()
	}
}

// next inflates the next piece: as much as out holds, across members, or up to the end of the stream or an error.
func (z *Reader) next() {
	d := &z.d
	if n := d.op - window; n > 0 {
		copy(z.out, z.out[n:d.op])
		d.op = window
		d.base = max(0, d.base-n)
	}
	start := d.op
	full := false
	for !full && z.err == nil {
		before := d.op
		st, err := d.run()
		z.crc = crc32.Update(z.crc, crc32.IEEETable, z.out[before:d.op])
		z.size += uint32(d.op - before)
		switch {
		case err != nil:
			z.err = z.locate(err)
		case st == needOutput:
			full = true
		case st == needInput:
			z.err = z.more()
		case st == finished:
			if z.err = z.trailer(); z.err == nil {
				z.err = z.header()
			}
		}
	}
	z.todo = z.out[start:d.op]
}

// fill reads more input behind what is left of it, and drops what is used up.
func (z *Reader) fill() error {
	if z.readErr != nil {
		return z.readErr
	}
	d := &z.d
	drop := max(0, d.ip-keepInput)
	have := copy(z.in, d.src[drop:])
	z.offset += int64(drop)
	d.ip -= drop
	n := 0
	for tries := 0; n == 0 && z.readErr == nil; tries++ {
		if n, z.readErr = z.r.Read(z.in[have:]); n < 0 || n > len(z.in)-have {
			n, z.readErr = 0, errReadCount
		}
		if tries == 100 && n == 0 && z.readErr == nil {
			z.readErr = io.ErrNoProgress
		}
	}
	d.src = z.in[:have+n]
	if n == 0 {
		return z.readErr
	}
	return nil
}

// more is fill where the stream must go on.
func (z *Reader) more() error {
	err := z.fill()
	if err == io.EOF {
		return z.corrupt(errTruncated)
	}
	return err
}

// need makes n bytes of input be at hand, byte by byte.
func (z *Reader) need(n int) error {
	for len(z.d.src)-z.d.ip < n {
		if err := z.more(); err != nil {
			return err
		}
	}
	return nil
}

// header reads the header of a member; it returns io.EOF if the stream ends before it.
func (z *Reader) header() error {
	d := &z.d
	if len(d.src) == d.ip {
		if err := z.fill(); err != nil {
			return err
		}
	}
	if err := z.need(gzipHeader); err != nil {
		return err
	}
	h := d.src[d.ip:]
	if h[0] != 0x1f || h[1] != 0x8b || h[2] != 8 {
		return z.corrupt(errGzipHeader)
	}
	flags := h[3]
	z.crc = 0
	z.pass(gzipHeader)
	if flags&flagExtra != 0 {
		if err := z.need(2); err != nil {
			return err
		}
		n := int(binary.LittleEndian.Uint16(d.src[d.ip:]))
		z.pass(2)
		for n > 0 {
			if err := z.need(1); err != nil {
				return err
			}
			m := min(n, len(d.src)-d.ip)
			z.pass(m)
			n -= m
		}
	}
	for _, flag := range [...]byte{flagName, flagComment} {
		if flags&flag != 0 {
			if err := z.passString(); err != nil {
				return err
			}
		}
	}
	if flags&flagHeaderCRC != 0 {
		if err := z.need(2); err != nil {
			return err
		}
		if binary.LittleEndian.Uint16(d.src[d.ip:]) != uint16(z.crc) {
			return z.corrupt(errGzipHeader)
		}
		d.ip += 2
	}
	z.crc, z.size = 0, 0
	d.reset()
	return nil
}

// pass moves over n bytes of a header.
func (z *Reader) pass(n int) {
	z.crc = crc32.Update(z.crc, crc32.IEEETable, z.d.src[z.d.ip:z.d.ip+n])
	z.d.ip += n
}

// passString moves over a name or a comment.
func (z *Reader) passString() error {
	for n := 1; ; {
		if err := z.need(n); err != nil {
			return err
		}
		s := z.d.src[z.d.ip:]
		s = s[:min(len(s), gzipName)]
		if i := bytes.IndexByte(s, 0); i >= 0 {
			z.pass(i + 1)
			return nil
		}
		if len(s) == gzipName {
			return z.corrupt(errGzipHeader)
		}
		n = len(s) + 1
	}
}

// trailer checks the end of a member.
func (z *Reader) trailer() error {
	if err := z.need(gzipTrailer); err != nil {
		return err
	}
	t := z.d.src[z.d.ip:]
	if binary.LittleEndian.Uint32(t) != z.crc {
		return z.corrupt(errChecksum)
	}
	if binary.LittleEndian.Uint32(t[4:]) != z.size {
		return z.corrupt(errSize)
	}
	z.d.ip += gzipTrailer
	return nil
}

// corrupt returns reason as an error at the present offset or, if the input has ended, at its end.
func (z *Reader) corrupt(reason error) error {
	if reason == errTruncated {
		return &CorruptError{Offset: z.offset + int64(len(z.d.src)), Err: reason}
	}
	return &CorruptError{Offset: z.offset + int64(z.d.ip), Err: reason}
}

// locate makes the offset of the decoder's error one in the stream.
func (z *Reader) locate(err error) error {
	if c, ok := errors.AsType[*CorruptError](err); ok {
		return &CorruptError{Offset: z.offset + c.Offset, Err: c.Err}
	}
	return err
}
