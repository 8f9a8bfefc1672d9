package convert

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"sync"

	"hpcimg/convert/internal/index"
	"hpcimg/image/cache"
	"hpcimg/squashfs"
)

// Origin says where a part of an image comes from.
type Origin string

// The origins of layer indexes and segments.
const (
	OriginSource Origin = "source" // the layer has been read
	OriginCache  Origin = "cache"
	OriginReuse  Origin = "reuse" // one of Options.Reuse
)

// maxCandidates bounds how many segments are looked at to find one that has all visible files.
const maxCandidates = 16

// recall is what is remembered of layers, in the cache and in images that may be reused. Nothing of it is ever needed: what
// is not there, or damaged, is read from the source.
type recall struct {
	cache  *cache.Cache
	hints  []*hint
	params func() index.Params
	logger *slog.Logger

	once  sync.Once
	packs []*squashfs.PackReader // of the hints
}

func newRecall(o *Options) *recall {
	p := index.Params{Compression: o.Compression, BlockSize: o.BlockSize}
	if p.BlockSize == 0 {
		p.BlockSize = squashfs.DefaultBlockSize
	}
	r := &recall{cache: o.Cache, logger: o.Logger}
	r.params = sync.OnceValue(func() index.Params {
		// It takes some milliseconds, and plain squashfs without a cache needs none. The options have been checked.
		p.Fingerprint, _ = squashfs.EncoderFingerprint(o.Compression, o.Level)
		return p
	})
	for _, path := range o.Reuse {
		h, err := openHint(path)
		if err != nil {
			r.logger.Warn("image cannot be reused", "path", path, "err", err)
			continue
		}
		r.hints = append(r.hints, h)
	}
	return r
}

// reusable returns the packs from which units may be taken. To find them takes a while, so it is done when the first layer is to
// be packed.
func (r *recall) reusable() []*squashfs.PackReader {
	r.once.Do(func() {
		for _, h := range r.hints {
			r.packs = append(r.packs, h.packs(r.params())...)
		}
	})
	return r.packs
}

// any reports whether there is anything to remember.
func (r *recall) any() bool { return r.cache != nil || len(r.hints) > 0 }

func (r *recall) close() {
	for _, h := range r.hints {
		h.close()
	}
}

// layer returns the index of a layer, or nil.
func (r *recall) layer(ctx context.Context, diffID string) (*index.Layer, Origin) {
	key := index.LayerKey(diffID)
	if r.cache != nil {
		if l := r.cachedLayer(ctx, key); l != nil {
			return l, OriginCache
		}
	}
	for _, h := range r.hints {
		l, err := h.layer(key)
		if err != nil {
			r.logger.Warn("index of a layer is damaged", "image", h.path, "err", err)
		}
		if l != nil {
			return l, OriginReuse
		}
	}
	return nil, ""
}

func (r *recall) cachedLayer(ctx context.Context, key string) *index.Layer {
	e, err := r.cache.Get(ctx, cache.KindIndex, key)
	if err != nil {
		r.missed(err)
		return nil
	}
	defer e.Close()
	l, err := index.DecodeLayer(e.Meta())
	if err != nil {
		r.logger.Warn("index of a layer is damaged", "key", key, "err", err)
		_ = r.cache.Remove(cache.KindIndex, key)
		return nil
	}
	return l
}

// missed logs why there is nothing, unless it is just not there.
func (r *recall) missed(err error) {
	if !errors.Is(err, fs.ErrNotExist) {
		r.logger.Warn("cache cannot be read", "err", err)
	}
}

// segment returns the segment of that name, verified, or nil.
func (r *recall) segment(ctx context.Context, key string, l *layerState) (*segment, Origin) {
	if key == "" {
		return nil, ""
	}
	if r.cache != nil {
		if s := r.cachedSegment(ctx, key, l); s != nil {
			return s, OriginCache
		}
	}
	for _, h := range r.hints {
		s, err := h.segment(ctx, key, l.known.Entries.Len())
		if err != nil {
			r.logger.Warn("segment is damaged", "image", h.path, "err", err)
		}
		if s != nil {
			return s, OriginReuse
		}
	}
	return nil, ""
}

func (r *recall) cachedSegment(ctx context.Context, key string, l *layerState) *segment {
	e, err := r.cache.Get(ctx, cache.KindSegment, key)
	if err != nil {
		r.missed(err)
		return nil
	}
	s, err := index.DecodeSegment(e.Meta(), l.known.Entries.Len())
	if err == nil && s.Pack.Size != e.Size() {
		err = index.ErrFormat
	}
	if err == nil {
		err = e.Verify(ctx)
	}
	if err != nil {
		_ = e.Close()
		if ctx.Err() == nil {
			r.logger.Warn("segment is damaged", "key", key, "err", err)
			_ = r.cache.Remove(cache.KindSegment, key)
		}
		return nil
	}
	return &segment{Segment: s, file: e.File(), entry: e}
}

// superset returns a segment that has all visible files of the layer and others, or nil.
func (r *recall) superset(ctx context.Context, packKey func(*layerState) string, l *layerState) (*segment, Origin) {
	if l.diffID == "" || !r.any() {
		return nil, ""
	}
	covers := func(s *segment) bool {
		if s == nil {
			return false
		}
		missing, _ := s.compare(l)
		if missing {
			s.discard()
		}
		return !missing
	}
	for _, h := range r.hints {
		for _, key := range h.segmentKeys(packKey(l)) {
			if s, err := h.segment(ctx, key, l.known.Entries.Len()); err == nil && covers(s) {
				return s, OriginReuse
			}
		}
	}
	if r.cache == nil {
		return nil, ""
	}
	keys, err := r.cache.Keys(ctx, cache.KindSegment, packKey(l)+"-")
	if err != nil {
		r.missed(err)
	}
	for _, key := range keys[:min(len(keys), maxCandidates)] {
		if s := r.cachedSegment(ctx, key, l); covers(s) {
			return s, OriginCache
		}
	}
	return nil, ""
}
