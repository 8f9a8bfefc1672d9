package index

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"

	"hpcimg/squashfs"
)

// Bundle is what an image carries along of the layers that it was made of, so that the next version can be made from it.
type Bundle struct {
	Params Params
	Layers []BundleLayer // bottom first
}

// BundleLayer is a layer of a Bundle.
type BundleLayer struct {
	LayerKey   string
	SegmentKey string
	Offset     int64  // of the segment in the squashfs
	Layer      []byte // encoded
	Segment    []byte // encoded
}

const (
	bundleMagic = "hpcimg-reuse-1\n"

	maxBundleLayers = 10_000
)

// Encode returns the stored form of b.
func (b *Bundle) Encode() ([]byte, error) {
	size := 0
	for _, l := range b.Layers {
		size += len(l.Layer) + len(l.Segment) + 4*sha256.Size
	}
	w := newWriter(size)
	w.b = append(w.b, bundleMagic...)
	w.uint(uint64(b.Params.Compression))
	w.uint(uint64(b.Params.BlockSize))
	w.string(b.Params.Fingerprint)
	w.uint(uint64(len(b.Layers)))
	for _, l := range b.Layers {
		pack, visible, _ := cutKey(l.SegmentKey)
		for _, key := range []string{l.LayerKey, pack, visible} {
			raw, err := hex.DecodeString(key)
			if err != nil || len(raw) != sha256.Size {
				return nil, fmt.Errorf("%w: key %q", ErrFormat, key)
			}
			w.bytes(raw)
		}
		w.uint(uint64(l.Offset))
		for _, part := range [][]byte{l.Layer, l.Segment} {
			w.uint(uint64(len(part)))
			w.bytes(part)
		}
	}
	sum := sha256.Sum256(w.b)
	return append(w.b, sum[:]...), nil
}

func cutKey(segmentKey string) (pack, visible string, ok bool) {
	const n = 2 * sha256.Size
	if len(segmentKey) != 2*n+1 || segmentKey[n] != '-' {
		return "", "", false
	}
	return segmentKey[:n], segmentKey[n+1:], true
}

// DecodeBundle is the inverse of Encode. What it returns refers to b.
func DecodeBundle(b []byte) (*Bundle, error) {
	n := len(b) - sha256.Size
	if n < len(bundleMagic) || string(b[:len(bundleMagic)]) != bundleMagic {
		return nil, fmt.Errorf("%w: it does not begin with %q", ErrFormat, bundleMagic)
	}
	if sha256.Sum256(b[:n]) != [sha256.Size]byte(b[n:]) {
		return nil, fmt.Errorf("%w: checksum", ErrFormat)
	}
	r := &reader{b: b[len(bundleMagic):n]}
	bundle := &Bundle{Params: Params{
		Compression: squashfs.Compression(r.uint32()), BlockSize: int(r.uint32()), Fingerprint: r.string(),
	}}
	layers := r.count(3 * sha256.Size)
	if layers > maxBundleLayers {
		r.fail("too many layers")
	}
	for range layers {
		if r.err != nil {
			break
		}
		l := BundleLayer{LayerKey: hex.EncodeToString(r.digest())}
		l.SegmentKey = hex.EncodeToString(r.digest()) + "-" + hex.EncodeToString(r.digest())
		offset := r.uint()
		if offset > math.MaxInt64 {
			r.fail("offset")
		}
		l.Offset = int64(offset)
		l.Layer, l.Segment = r.view(), r.view()
		bundle.Layers = append(bundle.Layers, l)
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	return bundle, nil
}

// view is string without a copy.
func (r *reader) view() []byte {
	n, used := binary.Uvarint(r.b)
	if used <= 0 || n > uint64(len(r.b)-used) {
		r.fail("string")
		return nil
	}
	r.b = r.b[used:]
	return r.bytes(int(n))
}
