package squashfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// xzDecoder reads the xz container itself and leaves only LZMA2 to the
// library. This way the dictionary is no greater than the output, whatever the
// block's header asks for.
type xzDecoder struct{}

const (
	xzHeaderSize = 12
	xzFooterSize = 12
	xzLZMA2      = 0x21
)

// Check kinds of an xz stream. Kernels know the first two.
const (
	xzCheckNone  = 0x00
	xzCheckCRC32 = 0x01
	xzCheckCRC64 = 0x04
	xzCheckSHA   = 0x0a
)

func (xzDecoder) decode(dst, src []byte) (int, error) {
	body, check, err := xzBlock(src)
	if err != nil {
		return 0, err
	}
	in := bytes.NewReader(body)
	z, err := lzma.Reader2Config{DictCap: max(len(dst), lzma.MinDictCap)}.NewReader2(in)
	if err != nil {
		return 0, err
	}
	n, err := io.ReadFull(z, dst)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		if !z.EOS() {
			return 0, io.ErrUnexpectedEOF
		}
	case err != nil:
		return 0, err
	default:
		var one [1]byte
		if k, err := z.Read(one[:]); k > 0 {
			return 0, errDecodedSize
		} else if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
	}
	if check != xzCheckCRC32 {
		return n, nil
	}
	tail := body[len(body)-in.Len():]
	pad := -(len(body) - in.Len()) & 3
	if len(tail) < pad+4 {
		return 0, io.ErrUnexpectedEOF
	}
	if sum := binary.LittleEndian.Uint32(tail[pad:]); sum != crc32.ChecksumIEEE(dst[:n]) {
		return 0, errors.New("xz: checksum differs")
	}
	return n, nil
}

// xzBlock checks the headers of a one-block stream and returns what follows:
// LZMA2 data, padding, check, index and footer.
func xzBlock(src []byte) (body []byte, check byte, err error) {
	if len(src) < xzHeaderSize+xzFooterSize+8 {
		return nil, 0, io.ErrUnexpectedEOF
	}
	if string(src[:6]) != "\xfd7zXZ\x00" || src[6] != 0 {
		return nil, 0, errors.New("xz: no stream header")
	}
	switch check = src[7]; check {
	case xzCheckNone, xzCheckCRC32, xzCheckCRC64, xzCheckSHA:
	default:
		return nil, 0, fmt.Errorf("xz: unknown check %#x", check)
	}
	if crc32.ChecksumIEEE(src[6:8]) != binary.LittleEndian.Uint32(src[8:]) {
		return nil, 0, errors.New("xz: stream header checksum differs")
	}
	src = src[xzHeaderSize:]
	size := (int(src[0]) + 1) * 4
	if size < 8 || size > len(src) {
		return nil, 0, errors.New("xz: no block")
	}
	head := src[:size-4]
	if crc32.ChecksumIEEE(head) != binary.LittleEndian.Uint32(src[size-4:]) {
		return nil, 0, errors.New("xz: block header checksum differs")
	}
	if err := xzFilters(head); err != nil {
		return nil, 0, err
	}
	return src[size:], check, nil
}

// xzFilters accepts LZMA2 alone.
func xzFilters(head []byte) error {
	flags := head[1]
	rest := head[2:]
	if flags&0x3c != 0 {
		return errors.New("xz: reserved block flags")
	}
	for _, bit := range []byte{0x40, 0x80} {
		if flags&bit == 0 {
			continue
		}
		_, n := binary.Uvarint(rest)
		if n <= 0 {
			return errors.New("xz: block header truncated")
		}
		rest = rest[n:]
	}
	id, n := binary.Uvarint(rest)
	if n <= 0 {
		return errors.New("xz: block header truncated")
	}
	if id != xzLZMA2 || flags&3 != 0 {
		return fmt.Errorf("xz: branch filter %#x: %w", id, errors.ErrUnsupported)
	}
	return nil
}
