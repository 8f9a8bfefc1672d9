package index

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math"

	"hpcimg/squashfs"
)

// Segment says where the files of a layer are in its pack.
type Segment struct {
	// Contents are those that the pack has, for each entry of the layer.
	Contents *Contents
	Pack     *squashfs.Pack
	Sums     [][sha256.Size]byte // of each SumChunk bytes of the pack; empty if nobody has asked for them
}

// SumChunk is how much of a pack has one checksum.
const SumChunk = 1 << 20

const segmentMagic = "hpcimg-segment-1\n"

// Encode returns the stored form of s.
func (s *Segment) Encode() ([]byte, error) {
	w := newWriter(10*s.Contents.Len() + 40*len(s.Pack.Units) + 8*len(s.Pack.Fragments) + sha256.Size*len(s.Sums))
	w.uint(uint64(s.Pack.Size))
	w.uint(uint64(s.Pack.Compression))
	w.uint(uint64(s.Pack.BlockSize))
	w.uint(uint64(len(s.Pack.Units)))
	last := int64(0)
	for _, u := range s.Pack.Units {
		w.bytes(u.Digest[:])
		w.int(u.Start - last)
		w.uint(uint64(u.Word))
		last = u.Start
	}
	last = 0
	w.uint(uint64(len(s.Pack.Fragments)))
	for _, f := range s.Pack.Fragments {
		w.int(f.Start - last)
		w.uint(uint64(f.Word))
		last = f.Start
	}
	w.uint(uint64(s.Contents.Len()))
	last = 0
	for _, c := range s.Contents.All() {
		if c == nil {
			w.uint(0)
			continue
		}
		w.uint(1 + uint64(c.Fragment+1))
		w.uint(uint64(c.Size))
		if c.Fragment >= 0 {
			w.uint(uint64(c.FragmentOffset))
		}
		w.uint(uint64(len(c.Blocks)))
		if len(c.Blocks) > 0 {
			w.int(c.Start - last)
			last = c.Start
		}
		for _, b := range c.Blocks {
			w.uint(uint64(b))
		}
	}
	w.uint(uint64(len(s.Sums)))
	for _, sum := range s.Sums {
		w.bytes(sum[:])
	}
	return pack(segmentMagic, w.b)
}

// DecodeSegment is the inverse of Encode, for a layer that has so many entries, or any number if that is negative. That contents lie within the pack is what a
// squashfs.Builder checks.
func DecodeSegment(b []byte, entries int) (*Segment, error) {
	raw, err := unpack(segmentMagic, b)
	if err != nil {
		return nil, err
	}
	r := &reader{b: raw}
	p := &squashfs.Pack{Size: r.size(), Compression: squashfs.Compression(r.uint32()), BlockSize: int(r.uint32())}
	last := int64(0)
	for range r.count(sha256.Size + 2) {
		u := squashfs.Unit{Digest: [sha256.Size]byte(r.digest())}
		last += r.int()
		u.Start, u.Word = last, r.uint32()
		p.Units = append(p.Units, u)
	}
	last = 0
	for range r.count(2) {
		last += r.int()
		p.Fragments = append(p.Fragments, squashfs.FragmentBlock{Start: last, Word: r.uint32()})
	}
	s := &Segment{Pack: p}
	n := r.count(1)
	if entries >= 0 && n != entries {
		r.fail("contents of another layer")
		return nil, r.err
	}
	s.Contents = new(Contents)
	s.Contents.Grow(n)
	last = 0
	for i := range n {
		if tag := r.uint(); tag > 0 {
			if c := r.content(tag, &last); c != nil {
				s.Contents.Set(i, c)
			}
		}
	}
	if s.Contents.Err() != nil {
		r.fail("too many blocks")
	}
	for range r.count(sha256.Size) {
		s.Sums = append(s.Sums, [sha256.Size]byte(r.digest()))
	}
	if want := (p.Size + SumChunk - 1) / SumChunk; len(s.Sums) > 0 && int64(len(s.Sums)) != want {
		r.fail("checksums")
	}
	if p.Size%4096 != 0 {
		r.fail("size that is no multiple of 4096")
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	if _, err := squashfs.NewPackReader(noReader{}, 0, p); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return s, nil
}

type noReader struct{}

func (noReader) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }

func (r *reader) size() int64 {
	v := r.uint()
	if v > math.MaxInt64 {
		r.fail("size")
		return 0
	}
	return int64(v)
}

func (r *reader) digest() []byte {
	if p := r.bytes(sha256.Size); p != nil {
		return p
	}
	return make([]byte, sha256.Size)
}

func (r *reader) content(tag uint64, last *int64) *squashfs.Content {
	c := &squashfs.Content{Fragment: -1, Size: r.size()}
	if tag > math.MaxInt32 {
		r.fail("fragment")
		return nil
	}
	if tag > 1 {
		c.Fragment = int32(tag - 2)
		c.FragmentOffset = r.uint32()
	}
	n := r.count(1)
	if n == 0 {
		return c
	}
	*last += r.int()
	c.Start = *last
	c.Blocks = make([]uint32, n)
	for i := range c.Blocks {
		c.Blocks[i] = r.uint32()
	}
	return c
}

// Has reports for each entry whether the pack has its contents.
func (s *Segment) Has(entry int) bool { return s.Contents.Has(entry) }

// LayerKey names the index of a layer.
func LayerKey(diffID string) string { return key("layer", layerMagic, diffID) }

// Params is how files are compressed.
type Params struct {
	Compression squashfs.Compression
	BlockSize   int
	Fingerprint string // of the encoder and its level, from squashfs.EncoderFingerprint
}

// PackKey names all segments of a layer that are compressed in one way, whichever files they have. It begins the name of each.
func PackKey(diffID string, p Params) string {
	return key("pack", segmentMagic, diffID, p.Compression.String(), fmt.Sprint(p.BlockSize), p.Fingerprint)
}

// SegmentKey names the segment of the files that can be seen.
func SegmentKey(packKey string, visible []bool) string {
	bits := make([]byte, (len(visible)+7)/8)
	for i, v := range visible {
		if v {
			bits[i/8] |= 1 << (i % 8)
		}
	}
	return packKey + "-" + key("visible", string(bits))
}

func key(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}
