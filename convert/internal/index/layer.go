package index

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"hpcimg/convert/internal/layer"
)

// Layer is all that a conversion needs to know of a layer but the contents of its files.
type Layer struct {
	Entries *layer.List
	Elves   map[int32]string // Go names of the architectures for which programs are, by index of their entries
	Notes   []Note
	TarSize int64
}

// Note is something that was left out of a layer or put up with, so many times.
type Note struct {
	Code         layer.Code
	Path, Detail string
	Count        int
}

const layerMagic = "hpcimg-layer-1\n"

// Encode returns the stored form of l.
func (l *Layer) Encode() ([]byte, error) {
	w := newWriter(40 * l.Entries.Len())
	w.uint(uint64(l.TarSize))
	w.uint(uint64(l.Entries.Len()))
	var last layer.Entry
	for _, e := range l.Entries.All() {
		writeEntry(w, e, &last)
		last = *e
	}
	w.uint(uint64(len(l.Elves)))
	for _, i := range slices.Sorted(maps.Keys(l.Elves)) {
		w.uint(uint64(i))
		w.string(l.Elves[i])
	}
	w.uint(uint64(len(l.Notes)))
	for _, n := range l.Notes {
		w.string(string(n.Code))
		w.string(n.Path)
		w.string(n.Detail)
		w.uint(uint64(n.Count))
	}
	return pack(layerMagic, w.b)
}

func writeEntry(w *writer, e, last *layer.Entry) {
	w.uint(uint64(e.Kind))
	shared := layer.SharedPrefix(e.Path, last.Path)
	w.uint(uint64(shared))
	w.string(e.Path[shared:])
	w.string(e.Link)
	if e.Kind.Whites() || e.Kind == layer.HardLink {
		return
	}
	w.uint(uint64(e.Mode & fs.ModePerm))
	w.uint(specialBits(e.Mode))
	w.uint(uint64(e.UID))
	w.uint(uint64(e.GID))
	w.int(int64(e.ModTime) - int64(last.ModTime))
	switch e.Kind {
	case layer.File:
		w.uint(uint64(e.Size))
	case layer.Char, layer.Block:
		w.uint(uint64(e.Major))
		w.uint(uint64(e.Minor))
	}
	w.uint(uint64(len(e.Xattrs)))
	for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
		w.string(name)
		w.string(e.Xattrs[name])
	}
}

const (
	setuid = 1 << iota
	setgid
	sticky
)

func specialBits(m fs.FileMode) (bits uint64) {
	if m&fs.ModeSetuid != 0 {
		bits |= setuid
	}
	if m&fs.ModeSetgid != 0 {
		bits |= setgid
	}
	if m&fs.ModeSticky != 0 {
		bits |= sticky
	}
	return bits
}

// DecodeLayer is the inverse of Encode.
func DecodeLayer(b []byte) (*Layer, error) {
	raw, err := unpack(layerMagic, b)
	if err != nil {
		return nil, err
	}
	r := &reader{b: raw}
	l := &Layer{Entries: new(layer.List), TarSize: int64(r.uint() & (1<<63 - 1))}
	var last layer.Entry
	for range r.count(4) {
		e := readEntry(r, &last)
		if r.err == nil {
			if err := e.Check(); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrFormat, err)
			}
		}
		l.Entries.Append(e)
		last = e
	}
	readElves(r, l)
	for range r.count(4) {
		l.Notes = append(l.Notes, Note{
			Code: layer.Code(r.string()), Path: r.string(), Detail: r.string(), Count: int(r.uint32()),
		})
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	return l, nil
}

func readElves(r *reader, l *Layer) {
	for range r.count(2) {
		i := r.uint()
		if i >= uint64(l.Entries.Len()) {
			r.fail("program that is no entry")
			return
		}
		if l.Elves == nil {
			l.Elves = make(map[int32]string)
		}
		l.Elves[int32(i)] = r.string()
	}
}

func readEntry(r *reader, last *layer.Entry) (e layer.Entry) {
	e.Kind = layer.Kind(min(r.uint(), 255))
	shared := r.uint()
	if shared > uint64(len(last.Path)) {
		r.fail("path")
		return e
	}
	rest := r.string()
	if shared+uint64(len(rest)) > layer.MaxPath {
		r.fail("path")
		return e
	}
	e.Path = last.Path[:shared] + rest
	e.Link = r.string()
	if e.Kind.Whites() || e.Kind == layer.HardLink {
		return e
	}
	e.Mode = fs.FileMode(r.uint()) & fs.ModePerm
	bits := r.uint()
	if bits&setuid != 0 {
		e.Mode |= fs.ModeSetuid
	}
	if bits&setgid != 0 {
		e.Mode |= fs.ModeSetgid
	}
	if bits&sticky != 0 {
		e.Mode |= fs.ModeSticky
	}
	e.UID, e.GID = r.uint32(), r.uint32()
	e.ModTime = uint32(int64(last.ModTime) + r.int())
	switch e.Kind {
	case layer.File:
		e.Size = int64(r.uint())
	case layer.Char, layer.Block:
		e.Major, e.Minor = r.uint32(), r.uint32()
	}
	for range r.count(2) {
		if e.Xattrs == nil {
			e.Xattrs = make(map[string]string)
		}
		name := r.string()
		e.Xattrs[name] = r.string()
	}
	return e
}
