package convert

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"hpcimg/convert/internal/index"
	"hpcimg/sif"
	"hpcimg/squashfs"
)

// ReuseObject is the name of the SIF object with which an image carries along what it takes to make its next version from it.
const ReuseObject = "hpcimg.reuse.v1"

// maxReuseObject bounds the object: it has some 30 bytes for each entry of the image, and 32 for each block.
const maxReuseObject = 512 << 20

// hint is an earlier image whose segments may be used.
type hint struct {
	path   string
	file   *os.File
	base   int64 // of the squashfs
	size   int64
	bundle *index.Bundle
}

var (
	errNoReuse = errors.New("it carries no index of its layers")
	errTrust   = errors.New("others may have changed it: it is to belong to you or root, and be writable by nobody else")
)

// openHint opens an image that hpcimg has made. Whoever can write to it decides what is in images made from it, so it has to
// belong to somebody who is trusted.
func openHint(path string) (*hint, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	h, err := newHint(path, f)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return h, nil
}

func newHint(path string, f *os.File) (*hint, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || !trusted(info) {
		return nil, errTrust
	}
	image, err := sif.NewFile(f, info.Size())
	if err != nil {
		return nil, err
	}
	partition, err := image.Primary()
	if err != nil {
		return nil, err
	}
	bundle, err := bundleOf(image)
	if err != nil {
		return nil, err
	}
	return &hint{path: path, file: f, base: partition.Offset, size: partition.Size, bundle: bundle}, nil
}

// bundleOf returns the index of the layers that a SIF file carries along, or errNoReuse.
func bundleOf(f *sif.File) (*index.Bundle, error) {
	for _, o := range f.Objects() {
		if o.Name != ReuseObject || o.Type != sif.DataGeneric {
			continue
		}
		if o.Size > maxReuseObject {
			return nil, &LimitError{What: "bytes in " + ReuseObject, Limit: maxReuseObject}
		}
		raw := make([]byte, o.Size)
		if _, err := io.ReadFull(o.Open(), raw); err != nil {
			return nil, err
		}
		return index.DecodeBundle(raw)
	}
	return nil, errNoReuse
}

func (h *hint) close() { _ = h.file.Close() }

// layer returns the index of that name, or nil.
func (h *hint) layer(key string) (*index.Layer, error) {
	i := slices.IndexFunc(h.bundle.Layers, func(l index.BundleLayer) bool { return l.LayerKey == key })
	if i < 0 {
		return nil, nil
	}
	return index.DecodeLayer(h.bundle.Layers[i].Layer)
}

// segment returns the segment of that name after it has been compared with its checksums, or nil.
func (h *hint) segment(ctx context.Context, key string, entries int) (*segment, error) {
	i := slices.IndexFunc(h.bundle.Layers, func(l index.BundleLayer) bool { return l.SegmentKey == key })
	if i < 0 {
		return nil, nil
	}
	s, err := h.open(&h.bundle.Layers[i], entries)
	if err == nil {
		err = s.verify(ctx)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// segmentSize returns the size of the segment of that name, if it is there.
func (h *hint) segmentSize(key string) (int64, bool) {
	i := slices.IndexFunc(h.bundle.Layers, func(l index.BundleLayer) bool { return l.SegmentKey == key })
	if i < 0 {
		return 0, false
	}
	s, err := h.open(&h.bundle.Layers[i], -1)
	if err != nil {
		return 0, false
	}
	return s.Pack.Size, true
}

func (h *hint) open(l *index.BundleLayer, entries int) (*segment, error) {
	s, err := index.DecodeSegment(l.Segment, entries)
	if err != nil {
		return nil, err
	}
	if l.Offset%dataAlign != 0 || l.Offset > h.size || s.Pack.Size > h.size-l.Offset {
		return nil, fmt.Errorf("%w: segment outside of the image", index.ErrFormat)
	}
	return &segment{Segment: s, file: h.file, at: h.base + l.Offset}, nil
}

// segmentKeys returns the names of segments that begin with a pack key.
func (h *hint) segmentKeys(packKey string) (keys []string) {
	for _, l := range h.bundle.Layers {
		if strings.HasPrefix(l.SegmentKey, packKey) {
			keys = append(keys, l.SegmentKey)
		}
	}
	return keys
}

// packs returns all segments that are compressed like p says, for their units to be used. Nothing is verified: a packer does
// that.
func (h *hint) packs(p index.Params) (all []*squashfs.PackReader) {
	if h.bundle.Params != p {
		return nil
	}
	for i := range h.bundle.Layers {
		s, err := h.open(&h.bundle.Layers[i], -1)
		if err != nil {
			continue
		}
		if r, err := s.reader(); err == nil {
			all = append(all, r)
		}
	}
	return all
}

// verify compares the segment with its checksums.
func (s *segment) verify(ctx context.Context) error {
	if s.Pack.Size > 0 && len(s.Sums) == 0 {
		return fmt.Errorf("%w: no checksums", index.ErrFormat)
	}
	sums, err := s.checksums(ctx)
	if err == nil && !slices.Equal(sums, s.Sums) {
		err = fmt.Errorf("%w: checksum of a segment", index.ErrFormat)
	}
	return err
}

// checksums computes the checksums of the segment.
func (s *segment) checksums(ctx context.Context) ([][sha256.Size]byte, error) {
	sums := make([][sha256.Size]byte, (s.Pack.Size+index.SumChunk-1)/index.SumChunk)
	g, ctx := errgroup.WithContext(ctx)
	workers := min(runtime.GOMAXPROCS(0), len(sums))
	for w := range workers {
		g.Go(func() error {
			buf := make([]byte, index.SumChunk)
			for i := w; i < len(sums); i += workers {
				if err := ctx.Err(); err != nil {
					return err
				}
				off := int64(i) * index.SumChunk
				chunk := buf[:min(index.SumChunk, s.Pack.Size-off)]
				if n, err := s.file.ReadAt(chunk, s.at+off); n < len(chunk) {
					return cmpEOF(err)
				}
				sums[i] = sha256.Sum256(chunk)
			}
			return nil
		})
	}
	return sums, g.Wait()
}

func cmpEOF(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
