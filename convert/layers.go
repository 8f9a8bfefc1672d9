package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"hpcimg/convert/internal/index"
	"hpcimg/convert/internal/layer"
	"hpcimg/convert/internal/merge"
	"hpcimg/squashfs"
)

// maxReaders bounds how many layers are read at the same time, and with it connections and memory.
const maxReaders = 4

// A layer that may not go on waits so long for those above it, which are small as a rule, before it looks so often whether there are
// processors to spare. A layer that is being read keeps nearly two of them busy with inflating, hashing and parsing.
const (
	speculationGrace = 50 * time.Millisecond
	speculationPoll  = time.Millisecond
	readerLoad       = 2
)

// layerState is a layer on its way into the image.
type layerState struct {
	layerSource
	number int32
	name   string
	diffID string // "" if nobody knows it

	known   *index.Layer
	segment *segment
	visible []bool // by entry, once the layers are merged
	result  LayerResult

	mu      sync.Mutex
	stored  []byte // known, encoded, once somebody has asked for it and unless it is on the shelf
	shelved bool
	onShelf shelved
	files   *shelved // the segment's index, if it is on the shelf
}

// recallLayers looks for the indexes of layers that somebody has read before.
func (j *job) recallLayers(ctx context.Context) error {
	for _, l := range j.layers {
		if l.diffID == "" {
			continue
		}
		known, from := j.recall.layer(ctx, l.diffID)
		if known == nil {
			continue
		}
		if err := j.budget.AddLayer(known.Entries, known.TarSize); err != nil {
			return layerFailure(StageLayer, SideSource, l.name, err)
		}
		l.setKnown(known, from)
	}
	return ctx.Err()
}

func (l *layerState) setKnown(known *index.Layer, from Origin) {
	l.known = known
	l.result.Index = from
	l.result.Tar = known.TarSize
	l.result.Entries = known.Entries.Len()
}

// encode returns the stored form of the layer's index.
func (l *layerState) encode(s *shelf, known *index.Layer) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shelved {
		return s.get(l.onShelf)
	}
	var err error
	if l.stored == nil {
		l.stored, err = known.Encode()
	}
	return l.stored, err
}

// shelve puts away the indexes that the image is to carry along. Of many entries that is done before there is a tree of them: to encode
// them takes memory.
func (j *job) shelve(ctx context.Context) error {
	if j.opts.Form != FormSIF || j.opts.SIF.NoReuse || !j.manyEntries() {
		return nil
	}
	var err error
	if j.shelf.file, err = newTempFile(j.opts.TempDir); err != nil {
		return failure(StageMerge, SideDestination, err)
	}
	for _, l := range j.layers {
		if l.diffID == "" {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := j.shelveIndex(l); err != nil {
			return failure(StageMerge, SideDestination, err)
		}
	}
	return nil
}

// shelveIndex puts the index of a layer on the shelf, unless it is there.
func (j *job) shelveIndex(l *layerState) error {
	if l.shelved {
		return nil
	}
	known, err := l.encode(&j.shelf, l.known)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.onShelf, err = j.shelf.put(known)
	l.shelved, l.stored = err == nil, nil
	return err
}

// readLayers reads all layers that are not known, those on top first: what they hide need not be packed below.
func (j *job) readLayers(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(min(maxReaders, max(j.pool.Workers(), 2)))
	f := newFront(len(j.layers))
	again := j.src.again()
	if again && j.sif != nil {
		f.cover.Add(j.sif.cover())
	}
	for i := len(j.layers) - 1; i >= 0; i-- {
		l := j.layers[i]
		if l.known != nil {
			f.done(i, l.known.Entries)
			continue
		}
		wanted := func(int32, string) (bool, error) { return true, nil }
		if again { // what can be read but once is kept in full
			wanted = f.guess(ctx, i, j.pool)
		}
		g.Go(func() error {
			defer f.read()()
			known, segment, err := j.readLayer(ctx, l, &j.budget, wanted)
			if err != nil {
				return err
			}
			l.setKnown(known, OriginSource)
			l.segment = segment
			f.done(i, known.Entries)
			j.publishIndex(l)
			j.opts.Logger.Debug("layer read", "digest", l.name, "entries", known.Entries.Len(), "segment", segment.Pack.Size)
			return nil
		})
	}
	return g.Wait()
}

// front knows down to where the layers have been read, and what they hide of those below.
type front struct {
	mu      sync.Mutex
	entries []*layer.List // of layers that are read, but not all above them
	next    int           // all layers above this one are in cover
	moved   chan struct{} // closed when next changes
	cover   merge.Cover
	reading int // layers that are being read and not waiting
}

func newFront(layers int) *front {
	return &front{entries: make([]*layer.List, layers), next: layers - 1, moved: make(chan struct{})}
}

// done says that layer i has been read.
func (f *front) done(i int, entries *layer.List) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entries[i] = entries
	if f.next != i {
		return
	}
	for f.next >= 0 && f.entries[f.next] != nil {
		f.cover.Add(f.entries[f.next])
		f.entries[f.next] = nil
		f.next--
	}
	close(f.moved)
	f.moved = make(chan struct{})
}

// guess returns a function that says whether a file of layer i will be seen, as far as that can be told. As long as layers above
// are not read it waits for them, unless workers would idle.
func (f *front) guess(ctx context.Context, i int, pool *squashfs.Pool) func(int32, string) (bool, error) {
	reached := false // then nobody changes cover before i is done
	began := time.Now()
	return func(_ int32, path string) (bool, error) {
		if reached {
			return !f.cover.Hides(path), nil
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		for {
			reached = f.next == i
			switch {
			case f.cover.Hides(path):
				return false, nil
			case reached:
				return true, nil
			case time.Since(began) > speculationGrace && pool.Idle() > readerLoad*(f.reading-1):
				return true, nil
			}
			if err := f.wait(ctx); err != nil {
				return false, err
			}
		}
	}
}

// wait waits a little, or until something has changed. The caller has locked f.mu.
func (f *front) wait(ctx context.Context) error {
	moved := f.moved
	f.reading--
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.reading++
	}()
	select {
	case <-moved:
		return nil
	case <-time.After(speculationPoll):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// read counts a layer as being read until the function that it returns is called.
func (f *front) read() func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reading++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.reading--
	}
}

// readLayer reads a layer and packs the files that wanted asks for, by index and path.
func (j *job) readLayer(ctx context.Context, l *layerState, budget *layer.Budget, wanted func(int32, string) (bool, error)) (*index.Layer, *segment, error) {
	begin := time.Now()
	task := j.meter.Begin(string(StageLayer), short(l.name), l.result.Size)
	defer task.End()
	notes := &warnings{}
	r, err := l.open(ctx, j, &opening{task: task, budget: budget, notes: notes})
	if err != nil {
		return nil, nil, layerFailure(StageLayer, SideSource, l.name, err)
	}
	defer r.Close()
	packed := newPacked()
	segment, packer, err := j.newSegment(l, packed)
	if err != nil {
		return nil, nil, layerFailure(StageLayer, SideDestination, l.name, err)
	}
	p := &pass{entryReader: r, known: &index.Layer{Entries: new(layer.List)}, packed: packed, packer: packer, wanted: wanted}
	err = p.all(ctx)
	pack, closeErr := packer.Close()
	side := p.side(err)
	if err == nil {
		packed.contents.Grow(p.known.Entries.Len())
		err = errors.Join(closeErr, packed.contents.Err())
	}
	if err != nil {
		err = segment.trouble(ctx, side, err)
		segment.discard()
		return nil, nil, layerFailure(StageLayer, side, l.name, err)
	}
	segment.Segment = &index.Segment{Contents: packed.contents, Pack: pack}
	p.known.TarSize = r.tarSize()
	p.known.Notes = notes.notes()
	l.result.Reused += packer.Stats().Reused
	l.result.Elapsed += time.Since(begin)
	return p.known, segment, nil
}

// readAgain packs exactly the files of a known layer that can be seen.
func (j *job) readAgain(ctx context.Context, l *layerState) (*segment, error) {
	// What is in the layer has been counted before.
	budget := &layer.Budget{Entries: math.MaxInt64, Bytes: math.MaxInt64, Text: math.MaxInt64}
	wanted := func(i int32, _ string) (bool, error) { return int(i) < len(l.visible) && l.visible[i], nil }
	known, segment, err := j.readLayer(ctx, l, budget, wanted)
	if err != nil {
		return nil, err
	}
	if known.Entries.Len() != l.known.Entries.Len() {
		segment.discard()
		err := fmt.Errorf("%d entries now, %d before", known.Entries.Len(), l.known.Entries.Len())
		return nil, layerFailure(StageRepack, SideSource, l.name, err)
	}
	return segment, nil
}

// pass is one reading of a layer.
type pass struct {
	entryReader
	known   *index.Layer
	packed  *packed
	packer  *squashfs.Packer
	wanted  func(int32, string) (bool, error)
	readErr error // what the source has returned
}

func (p *pass) all(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := p.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			p.readErr = err
			return err
		}
		at := int32(p.known.Entries.Len())
		p.known.Entries.Append(e)
		if e.Kind != layer.File {
			continue
		}
		if err := p.file(ctx, at, &e); err != nil {
			return err
		}
	}
}

// file packs the contents of the current entry, if they are wanted.
func (p *pass) file(ctx context.Context, at int32, e *layer.Entry) error {
	wanted, err := p.wanted(at, e.Path)
	if err != nil {
		return err
	}
	r := io.Reader(sourceReader{p})
	if e.Mode&0o111 != 0 && e.Size >= elfHeaderSize {
		// What a program is for belongs to the index, which must not depend on what is packed.
		head := make([]byte, elfHeaderSize)
		if _, err := io.ReadFull(r, head); err != nil {
			return p.short(e, err)
		}
		if arch := elfArch(head); arch != "" {
			if p.known.Elves == nil {
				p.known.Elves = make(map[int32]string)
			}
			p.known.Elves[at] = arch
		}
		r = &headed{head: head, r: r}
	}
	if !wanted {
		return nil
	}
	p.packed.expect(int(at))
	if _, err := p.packer.Add(ctx, r, e.Size); err != nil {
		return p.short(e, err)
	}
	return nil
}

// short says what is wrong if the contents of e cannot be read.
func (p *pass) short(e *layer.Entry, err error) error {
	if p.readErr != nil {
		return p.readErr
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		p.readErr = &EntryError{Name: e.Path, Err: io.ErrUnexpectedEOF}
		return p.readErr
	}
	return err
}

// side tells whose fault err is.
func (p *pass) side(err error) Side {
	if p.readErr != nil && errors.Is(err, p.readErr) {
		return SideSource
	}
	return SideDestination
}

// sourceReader remembers errors of the source, so that they can be told from those of the destination.
type sourceReader struct{ p *pass }

func (s sourceReader) Read(b []byte) (int, error) {
	n, err := s.p.entryReader.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		s.p.readErr = err
	}
	return n, err
}

// headed puts back what has been read of a file. Unlike io.MultiReader it costs nothing once that is through.
type headed struct {
	head []byte
	r    io.Reader
}

func (h *headed) Read(p []byte) (int, error) {
	if len(h.head) == 0 {
		return h.r.Read(p)
	}
	n := copy(p, h.head)
	h.head = h.head[n:]
	return n, nil
}
