package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"hpcimg/convert/internal/index"
	"hpcimg/convert/internal/layer"
	"hpcimg/image/cache"
	"hpcimg/internal/atomicfile"
	"hpcimg/squashfs"
)

// segment is the compressed files of a layer, and where they are: in the cache or on the way to it, in an image that is reused,
// in a temporary file, or in their place in the output.
type segment struct {
	*index.Segment
	file    *os.File
	at      int64 // in file
	inPlace bool

	entry  *cache.Entry  // file belongs to it
	writer *cache.Writer // file belongs to it, until it is committed
	temp   *tempFile     // file belongs to it
}

// discard gives up what nobody is to find any more.
func (s *segment) discard() {
	if s == nil {
		return
	}
	switch {
	case s.entry != nil:
		_ = s.entry.Close()
	case s.writer != nil:
		_ = s.writer.Abort()
	case s.temp != nil:
		_ = s.temp.Close()
	}
	s.entry, s.writer, s.temp, s.file = nil, nil, nil, nil
}

// trouble marks an error of writing to the cache, which the conversion can do without.
func (s *segment) trouble(ctx context.Context, side Side, err error) error {
	if s.writer == nil || side == SideSource || ctx.Err() != nil {
		return err
	}
	return &cacheError{err}
}

// reader gives access to the units of the segment.
func (s *segment) reader() (*squashfs.PackReader, error) {
	return squashfs.NewPackReader(s.file, s.at, s.Pack)
}

// newSegment returns a segment of a layer, to be filled through the packer, which tells what it has. With a cache it is written there. Else the bottom
// layer, which is usually the largest, goes to its place at once; the others cannot, as nobody knows how much will lie below
// them.
func (j *job) newSegment(l *layerState, to *packed) (*segment, *squashfs.Packer, error) {
	s, err := j.segmentFile(l)
	if err != nil {
		return nil, nil, err
	}
	opts := j.opts.packerOptions(j.pool)
	opts.Reuse = j.recall.reusable()
	opts.Done = to.done
	p, err := squashfs.NewPacker(s.file, s.at, opts)
	if err != nil {
		s.discard()
		return nil, nil, err
	}
	return s, p, nil
}

// packed collects the contents that a packer completes.
type packed struct {
	mu       sync.Mutex
	entries  []int32 // whose contents they are, by number of the packer
	contents *index.Contents
}

func newPacked() *packed { return &packed{contents: new(index.Contents)} }

// expect says that the next contents are those of an entry.
func (p *packed) expect(entry int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.contents.Grow(entry + 1)
	p.entries = append(p.entries, int32(entry))
}

func (p *packed) done(n int, c *squashfs.Content) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.contents.Set(int(p.entries[n]), c)
}

func (j *job) segmentFile(l *layerState) (*segment, error) {
	if j.recall.cache != nil && l.diffID != "" {
		w, err := j.recall.cache.Create(cache.KindSegment, j.packKey(l)+"-unfinished")
		if err == nil {
			return &segment{file: w.File(), writer: w}, nil
		}
		j.opts.Logger.Warn("the cache takes nothing", "err", err)
	}
	if l.number == 0 && j.ready && l.segment == nil {
		return &segment{file: j.out.File, at: j.base + dataStart, inPlace: true}, nil
	}
	t, err := newTempFile(j.opts.TempDir)
	if err != nil {
		return nil, err
	}
	return &segment{file: t.File, temp: t}, nil
}

func (j *job) packKey(l *layerState) string { return index.PackKey(l.diffID, j.recall.params()) }

// settle gives each layer the segment that has exactly the files that can be seen, whatever was guessed while the layer was read and
// whatever is remembered: see docs/adr/0007-layer-pass.md.
func (j *job) settle(ctx context.Context) error {
	j.findVisible()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(min(maxReaders, max(j.pool.Workers(), 2)))
	for _, l := range j.layers {
		g.Go(func() error { return j.settleLayer(ctx, l) })
	}
	return g.Wait()
}

func (j *job) findVisible() {
	for _, l := range j.layers {
		l.visible = make([]bool, l.known.Entries.Len())
	}
	j.tree.Visible(func(number, index int32) { j.layers[number].visible[index] = true })
}

func (j *job) settleLayer(ctx context.Context, l *layerState) error {
	l.count()
	missing, extra := true, true
	if l.segment != nil {
		missing, extra = l.segment.compare(l)
		l.result.SegmentFrom = OriginSource
	}
	if !missing && !extra {
		return nil
	}
	key := ""
	if l.diffID != "" && j.recall.any() {
		key = index.SegmentKey(j.packKey(l), l.visible)
	}
	if s, from := j.recall.segment(ctx, key, l); s != nil {
		l.segment.discard()
		l.segment, l.result.SegmentFrom = s, from
		return nil
	}
	if missing {
		if s, from := j.recall.superset(ctx, j.packKey, l); s != nil {
			l.segment.discard()
			l.segment, l.result.SegmentFrom = s, from
			missing = false
		}
	}
	s, err := (*segment)(nil), error(nil)
	if missing {
		l.result.Repacked = l.segment != nil
		l.result.SegmentFrom = OriginSource
		s, err = j.readAgain(ctx, l)
	} else {
		j.opts.Logger.Debug("segment derived", "digest", l.name)
		l.result.Repacked = true
		s, err = j.derive(ctx, l)
	}
	if err != nil {
		return layerFailure(StageRepack, "", l.name, err)
	}
	l.segment.discard()
	l.segment = s
	return nil
}

// count counts the files of the layer.
func (l *layerState) count() {
	for i, kind := range l.known.Entries.Kinds() {
		switch {
		case kind != layer.File:
		case l.visible[i]:
			l.result.Files++
		default:
			l.result.Hidden++
		}
	}
}

// compare reports whether the segment lacks files that can be seen, and whether it has others.
func (s *segment) compare(l *layerState) (missing, extra bool) {
	for i, kind := range l.known.Entries.Kinds() {
		if kind != layer.File || s.Has(i) == l.visible[i] {
			continue
		}
		if l.visible[i] {
			missing = true
		} else {
			extra = true
		}
	}
	return missing, extra
}

// derive makes a new segment from the one that there is, in which only the visible files are. The result is the same as if no other
// had ever been packed.
func (j *job) derive(ctx context.Context, l *layerState) (*segment, error) {
	begin := time.Now()
	old := l.segment
	if old.inPlace {
		// It stands where the new one is to go.
		moved, err := j.moveAside(ctx, old)
		if err != nil {
			return nil, failure(StageRepack, SideDestination, err)
		}
		l.segment, old = moved, moved
	}
	task := j.meter.Begin(string(StageRepack), short(l.name), old.Pack.Size)
	defer task.End()
	from, err := old.reader()
	if err != nil {
		return nil, err
	}
	packed := newPacked()
	s, packer, err := j.newSegment(l, packed)
	if err != nil {
		return nil, failure(StageRepack, SideDestination, err)
	}
	packed.contents.Grow(old.Contents.Len())
	for i, c := range old.Contents.All() {
		if c == nil || !l.visible[i] {
			continue
		}
		packed.expect(i)
		if _, err = packer.Copy(ctx, from, c); err != nil {
			break
		}
	}
	pack, closeErr := packer.Close()
	if err := errors.Join(err, closeErr, packed.contents.Err()); err != nil {
		err = s.trouble(ctx, SideDestination, err)
		s.discard()
		return nil, failure(StageRepack, SideDestination, err)
	}
	s.Segment = &index.Segment{Contents: packed.contents, Pack: pack}
	l.result.Elapsed += time.Since(begin)
	return s, nil
}

// moveAside copies a segment that stands in its place to a temporary file.
func (j *job) moveAside(ctx context.Context, s *segment) (*segment, error) {
	t, err := newTempFile(j.opts.TempDir)
	if err != nil {
		return nil, err
	}
	moved := &segment{Segment: s.Segment, file: t.File, temp: t}
	if err := copyRange(ctx, t.File, 0, s.file, s.at, s.Pack.Size, func(int64) {}); err != nil {
		_ = t.Close()
		return nil, err
	}
	return moved, j.out.Truncate(j.base + dataStart)
}

// tempFile is a file for a segment that has to wait for its place. Where the system allows it the file has no name, so
// that nothing can be left of it.
type tempFile struct {
	*os.File
	name string // if it still has one
}

func newTempFile(dir string) (*tempFile, error) {
	f, err := os.CreateTemp(dir, atomicfile.LayerPrefix+"*")
	if err != nil {
		return nil, err
	}
	t := &tempFile{File: f}
	if err := os.Remove(f.Name()); err != nil {
		t.name = f.Name()
	}
	return t, nil
}

// Close closes and removes the file.
func (t *tempFile) Close() error {
	err := t.File.Close()
	if t.name != "" {
		_ = os.Remove(t.name)
	}
	return err
}

// copyRange copies n bytes between files. progress may be called by several goroutines.
func copyRange(ctx context.Context, dst *os.File, to int64, src *os.File, from, n int64, progress func(int64)) error {
	const step = 16 << 20
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := min(n, step)
		if err := copyPart(dst, to, src, from, part); err != nil {
			return err
		}
		progress(part)
		to, from, n = to+part, from+part, n-part
	}
	return nil
}

// copyThrough copies n bytes through memory.
func copyThrough(dst *os.File, to int64, src *os.File, from, n int64) error {
	m, err := io.Copy(io.NewOffsetWriter(dst, to), io.NewSectionReader(src, from, n))
	if err == nil && m < n {
		err = fmt.Errorf("segment: %w", io.ErrUnexpectedEOF)
	}
	return err
}
