package inflate

import (
	"encoding/binary"
)

// Zlib is [Decoder.Zlib] with a Decoder of its own.
func Zlib(dst, src []byte) (n int, err error) { return new(Decoder).Zlib(dst, src) }

// Deflate is [Decoder.Deflate] with a Decoder of its own.
func Deflate(dst, src []byte) (n, consumed int, err error) { return new(Decoder).Deflate(dst, src) }

// Zlib inflates the zlib stream (RFC 1950) at the start of src into dst and returns its size. The stream must fit
// ([ErrTooLarge]) and match its Adler-32. Bytes of src after the stream are ignored, as Linux does for a squashfs block.
// Streams that need a preset dictionary are refused. Bytes of dst past n, and all of it after an error, are undefined.
func (d *Decoder) Zlib(dst, src []byte) (n int, err error) {
	const header, trailer = 2, 4
	if len(src) < header {
		return 0, &CorruptError{Offset: int64(len(src)), Err: errTruncated}
	}
	h := binary.BigEndian.Uint16(src)
	switch {
	case h>>8&15 != 8 || h>>12 > 7 || h%31 != 0:
		return 0, &CorruptError{Err: errZlibHeader}
	case h&0x20 != 0:
		return 0, &CorruptError{Err: errDictionary}
	}
	n, end, err := d.whole(dst, src, header)
	if err != nil {
		return n, err
	}
	if len(src)-end < trailer {
		return n, &CorruptError{Offset: int64(len(src)), Err: errTruncated}
	}
	if binary.BigEndian.Uint32(src[end:]) != adler32(dst[:n]) {
		return n, &CorruptError{Offset: int64(end), Err: errChecksum}
	}
	return n, nil
}

// Deflate inflates the raw DEFLATE stream (RFC 1951) at the start of src into dst and returns its size and how many bytes
// of src it takes. The stream must fit ([ErrTooLarge]). Bytes of dst past n are undefined; nothing vouches for the rest
// but the caller's own checksum.
func (d *Decoder) Deflate(dst, src []byte) (n, consumed int, err error) {
	return d.whole(dst, src, 0)
}

// whole inflates src[start:] into dst and returns the size and the end of the stream in src.
func (d *Decoder) whole(dst, src []byte, start int) (n, end int, err error) {
	d.src, d.ip, d.dst, d.op = src, start, dst, 0
	d.reset()
	st, err := d.run()
	n, end = d.op, d.offset()
	if err == nil {
		switch st {
		case needInput:
			err = &CorruptError{Offset: int64(len(src)), Err: errTruncated}
		case needOutput:
			err = ErrTooLarge
		}
	}
	d.src, d.dst = nil, nil
	return n, end, err
}
