package estargz

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"hpcimg/convert/internal/layer"
)

// item is an entry of a stream that is read twice.
type item struct {
	path, link string
	at         int64 // in the stream
	written    bool
}

// sorted writes the entries of r in another order.
func (b *builder) sorted(ctx context.Context, r io.Reader, o *Options) (notFound []string, err error) {
	in, err := openTwice(r, o.SpoolDir)
	if err != nil {
		return nil, err
	}
	defer in.close()
	items, err := b.scan(ctx, in.first)
	if err != nil {
		return nil, err
	}
	again, err := in.again()
	if err != nil {
		return nil, err
	}
	s := &sorter{builder: b, ctx: ctx, in: again, start: in.start, items: items}
	for _, p := range o.Prioritized {
		ok, err := s.first(cleanName(p))
		if err != nil {
			return nil, err
		}
		if !ok {
			notFound = append(notFound, p)
		}
	}
	if err := b.landmark(prefetchLandmark); err != nil {
		return nil, err
	}
	for i := range items {
		if err := s.write(i); err != nil {
			return nil, err
		}
	}
	return notFound, nil
}

// scan reads the stream for what it has, and where. Entries that are replaced later count as written.
func (b *builder) scan(ctx context.Context, r io.Reader) ([]item, error) {
	src := newSource(ctx, r, b.limits.Bytes)
	var items []item
	for {
		// The header, or what belongs to it, begins where the contents before it have ended.
		at := (src.in.offset + blockSize - 1) / blockSize * blockSize
		h, err := src.next()
		if err == io.EOF {
			return items, nil
		}
		if err != nil {
			return nil, err
		}
		replaced, err := b.names.add(h)
		if err != nil {
			return nil, &layer.EntryError{Name: h.name, Err: err}
		}
		if replaced >= 0 {
			items[replaced].written = true
		}
		items = append(items, item{path: h.path, link: h.link, at: at})
		if _, err := io.Copy(io.Discard, src); err != nil {
			return nil, err
		}
	}
}

// sorter writes items in any order.
type sorter struct {
	*builder
	ctx   context.Context
	in    io.ReadSeeker
	start int64 // of the tar stream in in
	src   *source
	at    int64 // where src begins in the stream
	items []item
}

// first writes the entry p now, behind what it needs to be extracted. ok is false if there is none.
func (s *sorter) first(p string) (ok bool, err error) {
	e, ok := s.names.byPath[p]
	if !ok || e.own || e.seq < 0 && p != "" {
		return false, nil
	}
	// In the order in which the format's Go package has it: the directories of p, of the file that it links to, and so on, then
	// these files. A chain of links has a bounded length, and so has a path.
	var dirs, files []int
	for {
		dirs = s.appendParents(dirs, p)
		if e.seq >= 0 {
			files = append(files, e.seq)
		}
		if e.depth == 0 {
			break
		}
		p = s.items[e.seq].link
		e = s.names.byPath[p]
	}
	slices.Reverse(files)
	for _, i := range append(dirs, files...) {
		if err := s.write(i); err != nil {
			return true, err
		}
	}
	return true, nil
}

// appendParents appends the entries of the directories that lead to p, from the root.
func (s *sorter) appendParents(list []int, p string) []int {
	n := len(list)
	for p != "" {
		p = parent(p)
		if e := s.names.byPath[p]; e.seq >= 0 {
			list = append(list, e.seq)
		}
	}
	slices.Reverse(list[n:])
	return list
}

// write writes item i if it has not been written.
func (s *sorter) write(i int) error {
	it := &s.items[i]
	if it.written {
		return nil
	}
	it.written = true
	if err := s.seek(it.at); err != nil {
		return err
	}
	h, err := s.src.next()
	if err == nil && (h.path != it.path || h.link != it.link) || err == io.EOF {
		err = fmt.Errorf("%w: it has changed since it was first read", layer.ErrFormat)
	}
	if err != nil {
		return err
	}
	return s.builder.write(h, s.src)
}

// seek makes src read the entry that begins at offset.
func (s *sorter) seek(offset int64) error {
	if s.src != nil && (s.at+s.src.in.offset+blockSize-1)/blockSize*blockSize == offset {
		return nil // it is the next one
	}
	if _, err := s.in.Seek(s.start+offset, io.SeekStart); err != nil {
		return err
	}
	if s.src == nil {
		s.src = newSource(s.ctx, s.in, 1<<62)
	}
	s.at = offset
	s.src.in.offset = 0
	s.src.in.buf.Reset(&s.src.in.raw)
	s.src.tar = tar.NewReader(s.src.in)
	return nil
}

// twice is a stream that can be read a second time.
type twice struct {
	first io.Reader
	seek  io.ReadSeeker
	start int64
	spool *os.File
}

// openTwice returns r as it can be read twice: because it can be sought in, or by way of a file in dir.
func openTwice(r io.Reader, dir string) (*twice, error) {
	if s, ok := r.(io.ReadSeeker); ok {
		if start, err := s.Seek(0, io.SeekCurrent); err == nil { // a pipe cannot
			return &twice{first: s, seek: s, start: start}, nil
		}
	}
	if dir == "" {
		return nil, fmt.Errorf("%w: Prioritized wants an io.ReadSeeker, or a SpoolDir", fs.ErrInvalid)
	}
	f, err := os.CreateTemp(dir, ".estargz-*")
	if err != nil {
		return nil, err
	}
	// Nothing stays behind, whatever becomes of the process.
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &twice{first: io.TeeReader(r, f), seek: f, spool: f}, nil
}

// again returns the stream for the second reading.
func (t *twice) again() (io.ReadSeeker, error) {
	_, err := t.seek.Seek(t.start, io.SeekStart)
	return t.seek, err
}

func (t *twice) close() {
	if t.spool != nil {
		_ = t.spool.Close()
	}
}
