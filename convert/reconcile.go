package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"hpcimg/convert/internal/layer"
	"hpcimg/squashfs"
)

// reconcile compares what has been packed of each layer with what can be seen in the image. A layer where that differs is packed
// again, so that a segment holds the visible files of its layer and nothing else, whatever was guessed while it was
// read: see docs/adr/0007-layer-pass.md.
func (j *job) reconcile(ctx context.Context) error {
	visible := make([][]bool, len(j.layers))
	for i, l := range j.layers {
		visible[i] = make([]bool, l.entries.Len())
	}
	j.tree.Visible(func(number, index int32) { visible[number][index] = true })
	for i, l := range j.layers {
		missing, extra := l.compare(visible[i])
		if missing+extra == 0 {
			continue
		}
		j.opts.Logger.Debug("layer is packed again", "digest", l.name, "missing", missing, "extra", extra)
		l.result.Repacked = true
		wanted := func(index int32, _ string) bool { return visible[i][index] }
		err := j.repack(ctx, l, missing > 0, wanted)
		if err != nil {
			return err
		}
	}
	return nil
}

// compare counts the files that are visible but not packed, and the other way round.
func (l *layerState) compare(visible []bool) (missing, extra int) {
	l.result.Files, l.result.Hidden = 0, 0
	for i, e := range l.entries.All() {
		if e.Kind != layer.File {
			continue
		}
		if visible[i] {
			l.result.Files++
		} else {
			l.result.Hidden++
		}
		switch packed := l.contents[i] != nil; {
		case visible[i] && !packed:
			missing++
		case packed && !visible[i]:
			extra++
		}
	}
	return missing, extra
}

func (j *job) repack(ctx context.Context, l *layerState, reread bool, wanted func(int32, string) bool) error {
	if !reread {
		return layerFailure(StageRepack, "", l.name, j.shrink(ctx, l, wanted))
	}
	// What has been counted and noted of the layer was so the first time.
	budget, notes := j.budget, j.warnings
	j.budget = layer.Budget{Entries: math.MaxInt64, Bytes: math.MaxInt64, Text: math.MaxInt64}
	j.warnings = warnings{}
	defer func() { j.budget, j.warnings = budget, notes }()
	entries, elves := l.entries, l.elves
	if err := j.readLayer(ctx, l, wanted); err != nil {
		return err
	}
	if l.entries.Len() != entries.Len() {
		err := fmt.Errorf("%d entries at the second reading, %d at the first", l.entries.Len(), entries.Len())
		return layerFailure(StageRepack, SideSource, l.name, err)
	}
	l.entries, l.elves = entries, elves // the tree points to them
	return nil
}

// shrink makes a new segment from the one that there is, in which only the wanted files are. The result is the same as if no other
// had ever been packed.
func (j *job) shrink(ctx context.Context, l *layerState, wanted func(int32, string) bool) error {
	begin := time.Now()
	task := j.meter.Begin(string(StageRepack), short(l.name), 0)
	defer task.End()
	if l.at < 0 {
		// It stands where the new one is to go: move it out of the way.
		if err := j.moveToSpool(ctx, l); err != nil {
			return failure("", SideDestination, err)
		}
	}
	old, err := j.segmentReader(ctx, l)
	if err != nil {
		return err
	}
	packer, err := j.segmentPacker(l)
	if err != nil {
		return err
	}
	contents := make([]*squashfs.Content, l.entries.Len())
	for i := range contents {
		if l.contents[i] == nil || !wanted(int32(i), "") {
			continue
		}
		if contents[i], err = copyContent(ctx, packer, old, i, l.contents[i].Size); err != nil {
			break
		}
		task.Add(l.contents[i].Size)
	}
	pack, closeErr := packer.Close()
	if err := errors.Join(err, closeErr); err != nil {
		return failure("", SideDestination, err)
	}
	l.contents = contents
	j.endSegment(l, pack)
	l.result.Elapsed += time.Since(begin)
	return nil
}

func copyContent(ctx context.Context, packer *squashfs.Packer, old *squashfs.Reader, index int, size int64) (*squashfs.Content, error) {
	f, err := old.Open(strconv.Itoa(index))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return packer.Add(ctx, f, size)
}

// segmentReader gives access to the contents in a segment of the spool: as files, each named for the index of its entry, of an image that is
// the segment, with tables that exist in memory.
func (j *job) segmentReader(ctx context.Context, l *layerState) (*squashfs.Reader, error) {
	b, err := squashfs.NewBuilder(j.opts.builderOptions(0))
	if err != nil {
		return nil, err
	}
	id, err := b.AddPack(l.pack, dataStart)
	if err != nil {
		return nil, err
	}
	for i, c := range l.contents {
		if c == nil {
			continue
		}
		if err := b.Add(squashfs.Entry{Path: strconv.Itoa(i), Mode: 0o400, Content: c, Pack: id}); err != nil {
			return nil, err
		}
	}
	image := &segmentImage{
		segment: io.NewSectionReader(j.spool.f, l.at, l.pack.Size),
		start:   dataStart + l.pack.Size,
	}
	size, err := b.WriteTables(ctx, image, image.start)
	if err != nil {
		return nil, err
	}
	return squashfs.NewReader(image, size, nil)
}

// segmentImage is an image of which only the data is in a file.
type segmentImage struct {
	head    [dataStart]byte
	segment *io.SectionReader
	start   int64 // of the tables
	tables  []byte
}

func (s *segmentImage) WriteAt(p []byte, off int64) (int, error) {
	if off < dataStart {
		return copy(s.head[off:], p), nil
	}
	at := int(off - s.start)
	if need := at + len(p); need > len(s.tables) {
		s.tables = append(s.tables, make([]byte, need-len(s.tables))...)
	}
	return copy(s.tables[at:], p), nil
}

func (s *segmentImage) ReadAt(p []byte, off int64) (n int, err error) {
	for len(p) > 0 {
		var m int
		switch {
		case off < dataStart:
			m = copy(p, s.head[off:])
		case off < s.start:
			m, err = s.segment.ReadAt(p[:min(int64(len(p)), s.start-off)], off-dataStart)
			if err == io.EOF && m > 0 {
				err = nil
			}
		case off-s.start >= int64(len(s.tables)):
			return n, io.EOF
		default:
			m = copy(p, s.tables[off-s.start:])
		}
		if err != nil {
			return n + m, err
		}
		n, p, off = n+m, p[m:], off+int64(m)
	}
	return n, nil
}

// moveToSpool moves a segment that stands in its place to the spool.
func (j *job) moveToSpool(ctx context.Context, l *layerState) error {
	f, err := j.spool.file()
	if err != nil {
		return err
	}
	if _, err := f.Seek(j.spool.end, io.SeekStart); err != nil {
		return err
	}
	if _, err := j.out.Seek(j.base+dataStart, io.SeekStart); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := io.CopyN(f, j.out.File, l.pack.Size); err != nil {
		return err
	}
	l.at = j.spool.end
	j.spool.end += l.pack.Size
	return j.out.Truncate(j.base + dataStart)
}
