package export

import (
	"path"
	"strings"

	"hpcimg/convert/internal/layer"
	"hpcimg/squashfs"
)

// A batch is handed over when it has so many entries or so many bytes of files, whatever comes first. Blocks of any size divide
// the latter.
const (
	batchEntries  = 32
	batchContents = 1 << 20
)

// whiteoutPrefix begins the names of files that in a layer stand for what they hide.
const whiteoutPrefix = ".wh."

// batch is a stretch of the tar stream: what is to be in it, and then the stretch itself.
type batch struct {
	parts    []part
	contents int // bytes of files
	skipped  []string
	out      []byte
}

// part is a header, a piece of the contents of a file, or the one followed by the other.
type part struct {
	path string
	in   *squashfs.Inode
	head bool
	link string // the first name of the file, if this is a further one
	off  int64  // in the file
	n    int
}

// reset empties a batch. Buffers that many extended attributes have made large are not kept.
func (b *batch) reset() {
	clear(b.parts)
	clear(b.skipped)
	b.parts, b.skipped, b.contents = b.parts[:0], b.skipped[:0], 0
	if cap(b.out) > 2*batchContents {
		b.out = nil
	}
	b.out = b.out[:0]
}

func (b *batch) full() bool { return len(b.parts) >= batchEntries || b.contents >= batchContents }

// walker fills batches with the entries of a tree, directories before what is in them.
type walker struct {
	*pipeline[batch]
	opts  *TarOptions
	links map[squashfs.InodeRef]string // first names of files that have several
	slot  *slot[batch]
}

// walkTree passes the tree on to p in batches.
func walkTree(p *pipeline[batch], r *squashfs.Reader, opts *TarOptions) error {
	w := &walker{pipeline: p, opts: opts, links: make(map[squashfs.InodeRef]string)}
	if err := w.entry(".", r.Root()); err != nil {
		return err
	}
	return w.flush()
}

// batch returns a batch that is not full.
func (w *walker) batch() (*batch, error) {
	if w.slot != nil && w.slot.item.full() {
		if err := w.flush(); err != nil {
			return nil, err
		}
	}
	if w.slot == nil {
		s, err := w.take()
		if err != nil {
			return nil, err
		}
		w.slot = s
	}
	return &w.slot.item, nil
}

func (w *walker) flush() error {
	s := w.slot
	if s == nil {
		return nil
	}
	w.slot = nil
	return w.submit(s)
}

func (w *walker) entry(name string, in *squashfs.Inode) error {
	if w.opts.Accept != nil && !w.opts.Accept(name) {
		return nil
	}
	b, err := w.batch()
	if err != nil {
		return err
	}
	if w.opts.Layer && strings.HasPrefix(path.Base(name), whiteoutPrefix) || !storable(in) {
		b.skipped = append(b.skipped, name)
		return nil
	}
	p := part{path: name, in: in, head: true}
	if in.LinkCount() > 1 && !in.IsDir() {
		first, again := w.links[in.Ref()]
		if again {
			p.link = first
			b.parts = append(b.parts, p)
			return nil
		}
		w.links[in.Ref()] = name
	}
	if in.Mode().IsRegular() {
		return w.file(b, p)
	}
	b.parts = append(b.parts, p)
	if in.IsDir() {
		return entryError(name, w.dir(name, in))
	}
	return nil
}

// file adds a file, in as many pieces as need be. All but the last piece are whole chunks of the file.
func (w *walker) file(b *batch, p part) error {
	size := p.in.Size()
	if size > int64(batchContents-b.contents) {
		b.parts = append(b.parts, p)
		p.head = false
		if err := w.flush(); err != nil {
			return err
		}
		for p.off < size {
			var err error
			if b, err = w.batch(); err != nil {
				return err
			}
			p.n = int(min(batchContents, size-p.off))
			b.parts = append(b.parts, p)
			b.contents += p.n
			p.off += int64(p.n)
		}
		return nil
	}
	p.n = int(size)
	b.parts = append(b.parts, p)
	b.contents += p.n
	return nil
}

func (w *walker) dir(name string, in *squashfs.Inode) error {
	prefix := name + "/"
	if name == "." {
		prefix = ""
	}
	for e, err := range in.ReadDir(0) {
		if err != nil {
			return err
		}
		if len(prefix)+len(e.Name) > layer.MaxPath {
			return &layer.LimitError{What: "bytes in a path", Limit: layer.MaxPath}
		}
		child, err := in.Child(e)
		if err == nil {
			err = w.entry(prefix+e.Name, child)
		}
		if err != nil {
			return entryError(prefix+e.Name, err)
		}
	}
	return nil
}
