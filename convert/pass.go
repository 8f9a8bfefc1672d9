package convert

import (
	"context"
	"errors"
	"io"
	"time"

	"hpcimg/convert/internal/layer"
	"hpcimg/squashfs"
)

// readLayer reads a layer, records its entries, and packs the files that wanted asks for, by index and path.
func (j *job) readLayer(ctx context.Context, l *layerState, wanted func(int32, string) bool) error {
	begin := time.Now()
	task := j.meter.Begin(string(StageLayer), short(l.name), l.result.Size)
	defer task.End()
	r, err := l.open(ctx, j, task)
	if err != nil {
		return layerFailure(StageLayer, SideSource, l.name, err)
	}
	defer r.Close()
	packer, err := j.segmentPacker(l)
	if err != nil {
		return layerFailure(StageLayer, "", l.name, err)
	}
	p := &pass{layerState: l, entryReader: r, packer: packer, wanted: wanted}
	err = p.all(ctx)
	pack, closeErr := packer.Close()
	if err != nil {
		return layerFailure(StageLayer, p.side(err), l.name, err)
	}
	if closeErr != nil {
		return layerFailure(StageLayer, SideDestination, l.name, closeErr)
	}
	j.endSegment(l, pack)
	l.result.Tar = r.tarSize()
	l.result.Entries = l.entries.Len()
	l.result.Elapsed += time.Since(begin)
	return nil
}

// segmentPacker returns a packer for a layer. The bottom layer, which is the last to be read and usually the largest, goes to
// its place at once; the others cannot, as nobody knows how much will lie below them.
func (j *job) segmentPacker(l *layerState) (*squashfs.Packer, error) {
	if l.number == 0 && j.ready {
		l.at = -1
		return squashfs.NewPacker(j.squashfsAt(), dataStart, j.opts.packerOptions(j.pool))
	}
	f, err := j.spool.file()
	if err != nil {
		return nil, failure(StageLayer, SideDestination, err)
	}
	l.at = j.spool.end
	return squashfs.NewPacker(f, l.at, j.opts.packerOptions(j.pool))
}

func (j *job) endSegment(l *layerState, pack *squashfs.Pack) {
	l.pack = pack
	if l.at >= 0 {
		j.spool.end = l.at + pack.Size
	}
}

// pass is one reading of a layer.
type pass struct {
	*layerState
	entryReader
	packer  *squashfs.Packer
	wanted  func(int32, string) bool
	readErr error // what the source has returned
}

func (p *pass) all(ctx context.Context) error {
	p.entries, p.contents, p.elves = new(layer.List), nil, nil
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
		index := int32(p.entries.Len())
		p.entries.Append(e)
		p.contents = append(p.contents, nil)
		if e.Kind != layer.File || !p.wanted(index, e.Path) {
			continue
		}
		if err := p.add(ctx, index, &e); err != nil {
			return err
		}
	}
}

// add packs the contents of the current entry.
func (p *pass) add(ctx context.Context, index int32, e *layer.Entry) error {
	r := io.Reader(sourceReader{p})
	if e.Mode&0o111 != 0 && e.Size >= elfHeaderSize {
		r = &elfReader{r: r, found: func(arch string) {
			if p.elves == nil {
				p.elves = make(map[int32]string)
			}
			p.elves[index] = arch
		}}
	}
	content, err := p.packer.Add(ctx, r, e.Size)
	if p.readErr != nil {
		return p.readErr
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		p.readErr = &EntryError{Name: e.Path, Err: err}
		return p.readErr
	}
	p.contents[index] = content
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
