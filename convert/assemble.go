package convert

import (
	"bytes"
	"context"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"hpcimg/convert/internal/index"
	"hpcimg/convert/internal/layer"
	"hpcimg/convert/internal/merge"
	"hpcimg/internal/meter"
	"hpcimg/squashfs"
)

// assemble puts the segments in their places, from the bottom layer to the top, and writes the tables behind them.
func (j *job) assemble(ctx context.Context) error {
	b, err := squashfs.NewBuilder(j.opts.builderOptions(j.modTime))
	if err != nil {
		return failure(StageWrite, "", err)
	}
	a := &assembly{job: j, builder: b, end: dataStart, rest: j.squashfsAt()}
	for _, step := range []func(context.Context) error{a.placeSegments, a.packRoot, a.addEntries, a.writeTables} {
		if err := step(ctx); err != nil {
			return failure(StageWrite, SideDestination, err)
		}
	}
	return nil
}

// assembly is the making of the squashfs.
type assembly struct {
	*job
	builder *squashfs.Builder
	end     int64             // of what is in place, from base
	packs   []squashfs.PackID // of the layers
	root    squashfs.PackID
	files   map[int32]*squashfs.Content // by merge.Inode.Added
	bundle  *index.Bundle               // for the next version of the image, or nil
	rest    io.WriterAt                 // for all but the segments
	view    bool                        // they stay where they are
}

// assembleView makes a squashfs of which only what no layer has is written, and that to memory. Segments must not be published
// before the reader is not used any more.
func (j *job) assembleView(ctx context.Context) (*squashfs.Reader, error) {
	b, err := squashfs.NewBuilder(j.opts.builderOptions(j.modTime))
	if err != nil {
		return nil, failure(StageWrite, "", err)
	}
	v := &view{}
	a := &assembly{job: j, builder: b, end: dataStart, rest: v, view: true}
	for _, l := range j.layers {
		v.parts = append(v.parts, viewPart{off: a.end, size: l.segment.Pack.Size, file: l.segment.file, at: l.segment.at})
		if err := a.addPack(l.segment.Pack); err != nil {
			return nil, failure(StageWrite, "", err)
		}
		a.endLayer(l)
	}
	v.start = a.end
	for _, step := range []func(context.Context) error{a.packRoot, a.addEntries} {
		if err := step(ctx); err != nil {
			return nil, failure(StageWrite, "", err)
		}
	}
	size, err := b.WriteTables(ctx, v, a.end)
	if err != nil {
		return nil, failure(StageWrite, "", err)
	}
	r, err := v.reader(size)
	return r, failure(StageWrite, "", err)
}

// endLayer notes what has become of a layer.
func (a *assembly) endLayer(l *layerState) {
	l.result.Segment = l.segment.Pack.Size
	a.result.Layers = append(a.result.Layers, l.result)
}

func (a *assembly) placeSegments(ctx context.Context) error {
	var total, toCopy int64
	offsets := make([]int64, len(a.layers))
	for i, l := range a.layers {
		offsets[i] = a.end
		total += l.segment.Pack.Size
		if err := a.addPack(l.segment.Pack); err != nil {
			return err
		}
	}
	task := a.meter.Begin(string(StageWrite), "", total)
	defer task.End()
	var rest []int // layers whose segments cannot share blocks with the output
	for i, l := range a.layers {
		s := l.segment
		if s.inPlace || cloneRange(a.out.File, a.base+offsets[i], s.file, s.at, s.Pack.Size) {
			task.Add(s.Pack.Size)
			continue
		}
		rest = append(rest, i)
		toCopy += s.Pack.Size
	}
	if err := a.checkSpace(toCopy); err != nil {
		return err
	}
	g, groupCtx := errgroup.WithContext(ctx)
	g.SetLimit(min(maxReaders, max(a.pool.Workers(), 1)))
	for _, i := range rest {
		g.Go(func() error { return a.place(groupCtx, a.layers[i].segment, offsets[i], task) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := a.beginBundle(ctx, offsets); err != nil {
		return err
	}
	for _, l := range a.layers {
		a.endLayer(l)
	}
	a.publishSegments()
	return nil
}

// place copies a segment to its place in the squashfs.
func (a *assembly) place(ctx context.Context, s *segment, offset int64, task *meter.Task) error {
	err := copyRange(ctx, a.out.File, a.base+offset, s.file, s.at, s.Pack.Size, task.Add)
	if err != nil && ctx.Err() == nil && !isFull(err) && (s.entry != nil || s.writer != nil) {
		return &cacheError{err}
	}
	return err
}

// beginBundle puts on the shelf what the next version of the image can be made from.
func (a *assembly) beginBundle(ctx context.Context, offsets []int64) error {
	if a.sif == nil || a.opts.SIF.NoReuse {
		return nil
	}
	a.bundle = &index.Bundle{Params: a.recall.params()}
	for i, l := range a.layers {
		if l.diffID == "" {
			continue
		}
		s := l.segment
		if len(s.Sums) == 0 {
			placed := &segment{Segment: s.Segment, file: a.out.File, at: a.base + offsets[i]}
			var err error
			if s.Sums, err = placed.checksums(ctx); err != nil {
				return err
			}
		}
		if err := a.shelveIndex(l); err != nil {
			return err
		}
		files, err := s.Encode()
		if err != nil {
			return err
		}
		part, err := a.shelf.put(files)
		if err != nil {
			return err
		}
		l.files = &part
		a.bundle.Layers = append(a.bundle.Layers, index.BundleLayer{
			LayerKey: index.LayerKey(l.diffID), SegmentKey: index.SegmentKey(a.packKey(l), l.visible), Offset: offsets[i],
		})
	}
	return nil
}

// endBundle returns the bundle, encoded, or nil if there is none.
func (a *assembly) endBundle() (_ []byte, err error) {
	if a.bundle == nil || len(a.bundle.Layers) == 0 {
		return nil, nil
	}
	i := 0
	for _, l := range a.layers {
		if l.diffID == "" {
			continue
		}
		b := &a.bundle.Layers[i]
		if b.Layer, err = a.shelf.get(l.onShelf); err != nil {
			return nil, err
		}
		if b.Segment, err = a.shelf.get(*l.files); err != nil {
			return nil, err
		}
		i++
	}
	return a.bundle.Encode()
}

func (a *assembly) addPack(p *squashfs.Pack) error {
	id, err := a.builder.AddPack(p, a.end)
	a.packs = append(a.packs, id)
	a.end += p.Size
	return err
}

// packRoot packs the files that no layer has.
func (a *assembly) packRoot(ctx context.Context) error {
	packer, err := squashfs.NewPacker(a.rest, a.end, a.opts.packerOptions(a.pool))
	if err != nil {
		return err
	}
	a.files = make(map[int32]*squashfs.Content)
	err = a.tree.Added(func(i *merge.Inode) error {
		if i.Kind != layer.File {
			return nil
		}
		c, err := packer.Add(ctx, bytes.NewReader(i.Data), i.Size)
		a.files[i.Added] = c
		return err
	})
	pack, closeErr := packer.Close()
	if err != nil {
		return err
	}
	if closeErr != nil {
		return closeErr
	}
	a.root = squashfs.PackID(len(a.packs))
	return a.addPack(pack)
}

// addEntries gives the builder all entries, and then forgets them.
func (a *assembly) addEntries(ctx context.Context) error {
	add := a.addEntry
	var kept *keptEntries
	if !a.view && a.manyEntries() {
		var err error
		if kept, err = newKeptEntries(a.opts.TempDir); err != nil {
			return err
		}
		defer kept.Close()
		add = kept.add
	}
	err := a.tree.Walk(func(path string, i *merge.Inode, first string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		a.result.Entries++
		if first != "" {
			return add(&layer.Entry{Path: path, Kind: layer.HardLink, Link: first}, nil, 0)
		}
		e := *i.Entry
		e.Path = path
		switch {
		case i.Kind == layer.File && i.Index >= 0:
			return add(&e, a.layers[i.Layer].segment.Contents.At(int(i.Index)), a.packs[i.Layer])
		case i.Kind == layer.File:
			return add(&e, a.files[i.Added], a.root)
		}
		return add(&e, nil, 0)
	})
	if a.view {
		return err
	}
	// The builder has all that it needs, or will get it from kept, and is about to need more memory.
	a.tree, a.files = nil, nil
	for _, l := range a.layers {
		l.known, l.visible, l.segment.Segment = nil, nil, nil
	}
	if err != nil || kept == nil {
		return err
	}
	return kept.all(ctx, a.addEntry)
}

// addEntry adds an entry of the image.
func (a *assembly) addEntry(e *layer.Entry, c *squashfs.Content, pack squashfs.PackID) error {
	if e.Kind == layer.HardLink {
		return a.builder.Add(squashfs.Entry{Path: e.Path, HardLink: e.Link})
	}
	return a.builder.Add(squashfs.Entry{
		Path: e.Path, Mode: e.FileMode(), UID: e.UID, GID: e.GID, ModTime: time.Unix(int64(e.ModTime), 0), Target: e.Link,
		Xattrs: e.Xattrs, Rdev: squashfs.Rdev{Major: e.Major, Minor: e.Minor}, Content: c, Pack: pack,
	})
}

// manyEntries is when what is known of the layers should be given up before the builder gets the entries. It takes a microsecond for
// each of them.
func (j *job) manyEntries() bool {
	const many = 150_000
	n := 0
	for _, l := range j.layers {
		n += l.known.Entries.Len()
	}
	return n >= many
}

// writeTables completes the squashfs and what stands around it, and cuts off what a repacked layer may have left.
func (a *assembly) writeTables(ctx context.Context) error {
	size, err := a.builder.WriteTables(ctx, a.rest, a.end)
	if err != nil {
		return err
	}
	a.result.TableBytes = size - a.end
	a.result.Size = a.base + size
	a.builder = nil // what is in it is not needed while the bundle is encoded
	if a.sif != nil {
		bundle, err := a.endBundle()
		if err != nil {
			return err
		}
		if a.result.Size, err = a.sif.end(size, bundle); err != nil {
			return err
		}
	}
	return a.out.Truncate(a.result.Size)
}
