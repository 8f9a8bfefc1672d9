package convert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/convert/internal/layer"
	"hpcimg/sif"
	"hpcimg/squashfs"
)

// FromSquashfs converts what is in a squashfs, as if it were the only layer of an image.
func FromSquashfs(r *squashfs.Reader) *Source {
	return &Source{layers: []layerSource{squashfsLayer{r}}, definition: "bootstrap: scratch\n"}
}

// FromSIF converts the primary partition of a SIF file, which must be a squashfs. Definition, architecture and, where it has been an OCI image, the
// configuration stay. Of an OCI-SIF, as SingularityCE writes it, the image is converted: its layers may be squashfs or tar streams, and are
// verified. f must stay open until the conversion ends.
func FromSIF(f *sif.File) (*Source, error) {
	if isOCISIF(f) {
		s, err := fromOCISIF(f)
		return s, failure(StageOpen, SideSource, err)
	}
	partition, err := f.Primary()
	if err != nil {
		return nil, failure(StageOpen, SideSource, err)
	}
	r, err := squashfs.NewReader(partition.Open(), partition.Size, nil)
	if err != nil {
		return nil, failure(StageOpen, SideSource, err)
	}
	s := FromSquashfs(r)
	if partition.Partition.Arch != "" {
		s.arch = partition.Partition.Arch
		s.config.Architecture, s.config.OS = s.arch, "linux"
	}
	switch definition, err := f.Definition(); {
	case err == nil:
		s.definition = string(definition)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, failure(StageOpen, SideSource, err)
	}
	raw, err := f.JSON(sif.NameOCIConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, failure(StageOpen, SideSource, err)
	}
	var config ocispec.ImageConfig
	if err := json.Unmarshal(raw, &config); err != nil {
		return nil, failure(StageOpen, SideSource, fmt.Errorf("%w: %s: %w", ErrFormat, sif.NameOCIConfig, err))
	}
	s.config.Config = config
	return s, nil
}

// squashfsLayer is a tree in a squashfs.
type squashfsLayer struct{ r *squashfs.Reader }

func (l squashfsLayer) again() bool           { return false } // it may be a file that changes
func (l squashfsLayer) describe() LayerResult { return LayerResult{Size: l.r.BytesUsed()} }

func (l squashfsLayer) open(ctx context.Context, _ *job, o *opening) (entryReader, error) {
	return &squashfsEntries{
		ctx: ctx, opening: o, left: l.r.BytesUsed(), fragment: -1, links: make(map[uint32]string), todo: []squashfsEntry{{path: ".", in: l.r.Root()}},
	}, nil
}

// squashfsEntries reads the entries of a tree, directories before what is in them.
type squashfsEntries struct {
	*opening
	ctx   context.Context //nolint:containedctx // of the one reading that it is
	todo  []squashfsEntry // the next one last
	links map[uint32]string
	in    *squashfs.Inode // the current file
	off   int64

	left     int64 // of what the image takes, to be counted
	stored   int64 // what the current file takes
	fragment int64 // the one that has been counted last

	overlay bool         // devices 0:0 are whiteouts, and directories may be opaque
	opaque  *layer.Entry // what is to be said of the last directory
}

type squashfsEntry struct {
	path string
	in   *squashfs.Inode
}

// Next implements entryReader.
func (s *squashfsEntries) Next() (layer.Entry, error) {
	s.in, s.off = nil, 0
	if e := s.opaque; e != nil {
		s.opaque = nil
		return *e, s.budget.AddEntry(e)
	}
	for len(s.todo) > 0 {
		last := len(s.todo) - 1
		next := s.todo[last]
		s.todo = s.todo[:last]
		if err := s.ctx.Err(); err != nil {
			return layer.Entry{}, err
		}
		e, ok, err := s.entry(next)
		if err != nil {
			return e, &EntryError{Name: next.path, Err: err}
		}
		if ok {
			return e, s.budget.AddEntry(&e)
		}
	}
	s.count(s.left)
	return layer.Entry{}, io.EOF
}

// count says how much of the image has been read. It is not to be more than there is, though files may have blocks in common.
func (s *squashfsEntries) count(n int64) {
	n = min(n, s.left)
	s.left -= n
	if s.task != nil {
		s.task.Add(n)
	}
}

// storedSize returns what the file takes in the image, and of fragments what has not been counted. Damage is found by reading.
func (s *squashfsEntries) storedSize(in *squashfs.Inode) (n int64) {
	for b, err := range in.Blocks() {
		if err != nil {
			break
		}
		n += int64(b.StoredSize)
	}
	if f, ok, err := in.Fragment(); ok && err == nil && int64(f.Index) != s.fragment {
		s.fragment = int64(f.Index)
		n += int64(f.Block.StoredSize)
	}
	return n
}

func (s *squashfsEntries) entry(next squashfsEntry) (layer.Entry, bool, error) {
	in := next.in
	e := layer.Entry{
		Path: next.path, UID: in.UID(), GID: in.GID(), ModTime: uint32(min(max(in.ModTime().Unix(), 0), math.MaxUint32)),
		Mode: in.Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky),
	}
	switch in.Mode().Type() {
	case 0:
		e.Kind, e.Size, s.in = layer.File, in.Size(), in
	case fs.ModeDir:
		e.Kind = layer.Dir
		if err := s.push(next); err != nil {
			return e, false, err
		}
	case fs.ModeSymlink:
		e.Kind, e.Link, e.Mode = layer.Symlink, in.Readlink(), fs.ModePerm
	case fs.ModeDevice:
		e.Kind, e.Major, e.Minor = layer.Block, in.Rdev().Major, in.Rdev().Minor
	case fs.ModeDevice | fs.ModeCharDevice:
		e.Kind, e.Major, e.Minor = layer.Char, in.Rdev().Major, in.Rdev().Minor
		if s.overlay && e.Major == 0 && e.Minor == 0 {
			return layer.Entry{Path: next.path, Kind: layer.Whiteout}, true, nil
		}
	case fs.ModeNamedPipe:
		e.Kind = layer.FIFO
	default:
		s.notes.Note(layer.NoteSocket, next.path, "")
		return e, false, nil
	}
	if in.LinkCount() > 1 && e.Kind != layer.Dir {
		if first, ok := s.links[in.Number()]; ok {
			s.in = nil
			return layer.Entry{Path: next.path, Kind: layer.HardLink, Link: first}, true, nil
		}
		s.links[in.Number()] = next.path
	}
	all, err := in.Xattrs()
	if err != nil {
		return e, false, err
	}
	if s.overlay && e.Kind == layer.Dir && (takeOpaque(all, "trusted.") || takeOpaque(all, "user.")) {
		s.opaque = &layer.Entry{Path: next.path, Kind: layer.Opaque}
	}
	e.Xattrs = layer.KeepXattrs(e.Kind, all, func(name string) { s.notes.Note(layer.NoteXattr, next.path, name) })
	return e, true, e.Check()
}

// takeOpaque reports whether a directory hides what is below it, and removes what says so.
func takeOpaque(xattrs map[string]string, space string) bool {
	name := space + "overlay.opaque"
	opaque := xattrs[name] == "y"
	if opaque {
		delete(xattrs, name)
	}
	return opaque
}

// push puts what is in a directory on the list.
func (s *squashfsEntries) push(dir squashfsEntry) error {
	prefix := dir.path + "/"
	if dir.path == "." {
		prefix = ""
	}
	first := len(s.todo)
	for d, err := range dir.in.ReadDir(0) {
		if err != nil {
			return err
		}
		child, err := dir.in.Child(d)
		if err != nil {
			return fmt.Errorf("%s: %w", d.Name, err)
		}
		if len(prefix)+len(d.Name) > layer.MaxPath {
			return &LimitError{What: "bytes in a path", Limit: layer.MaxPath}
		}
		s.todo = append(s.todo, squashfsEntry{prefix + d.Name, child})
	}
	for i, k := first, len(s.todo)-1; i < k; i, k = i+1, k-1 {
		s.todo[i], s.todo[k] = s.todo[k], s.todo[i]
	}
	return nil
}

// Read reads the contents of the current file.
func (s *squashfsEntries) Read(p []byte) (int, error) {
	if s.in == nil {
		return 0, io.EOF
	}
	if s.off == 0 {
		s.stored = s.storedSize(s.in)
	}
	n, err := s.in.ReadAt(p, s.off)
	s.off += int64(n)
	if n > 0 {
		err = nil
		part := int64(float64(s.stored) * float64(n) / float64(s.in.Size()))
		s.count(part)
	}
	return n, err
}

// Close implements entryReader.
func (s *squashfsEntries) Close() error { return nil }

func (s *squashfsEntries) tarSize() int64 { return 0 }
