package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Notes count what was left out or put up with.
type Notes interface {
	// Note counts one occurrence; path and detail make the first an example.
	Note(code Code, path, detail string)
}

// Code names a reason for a note.
type Code string

// The codes of notes.
const (
	NoteXattr     Code = "xattr-dropped"        // detail is the name of the attribute
	NoteMediaType Code = "media-type-differs"   // detail says what the layer is
	NoteMeta      Code = "layer-metadata-entry" // .wh..wh.*, left out
	NoteSocket    Code = "socket-dropped"
)

// Tar reads the entries of a layer. It is an io.Reader of the contents of the current one.
type Tar struct {
	stream *streamReader
	tar    *tar.Reader
	budget *Budget
	notes  Notes
	ended  bool
}

// NewTar returns a Tar that reads the tar stream r. An error from r other than io.EOF is returned as it is.
func NewTar(r io.Reader, budget *Budget, notes Notes) *Tar {
	t := &Tar{budget: budget, notes: notes}
	t.stream = &streamReader{r: r, budget: budget}
	t.tar = tar.NewReader(t.stream)
	return t
}

// streamReader keeps errors of the stream apart from those of the format.
type streamReader struct {
	r      io.Reader
	budget *Budget
	err    error
}

func (s *streamReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		if limit := s.budget.addStream(int64(n)); limit != nil {
			err = limit
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// Next returns the next entry, or io.EOF once the whole stream has been read. The entry is the caller's.
func (t *Tar) Next() (Entry, error) {
	for !t.ended {
		h, err := t.tar.Next()
		if errors.Is(err, io.EOF) {
			t.ended = true
			break
		}
		if err != nil {
			return Entry{}, t.streamError(err)
		}
		if err := t.budget.addEntry(); err != nil {
			return Entry{}, err
		}
		e, ok, err := t.entry(h)
		if err != nil {
			return Entry{}, &EntryError{Name: h.Name, Err: err}
		}
		if ok {
			return e, t.budget.addText(&e)
		}
	}
	// What follows the end of the archive is part of the diffID all the same.
	if _, err := io.Copy(io.Discard, t.stream); err != nil {
		return Entry{}, t.streamError(err)
	}
	return Entry{}, io.EOF
}

// Read reads the contents of the current entry.
func (t *Tar) Read(p []byte) (int, error) {
	n, err := t.tar.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = t.streamError(err)
	}
	return n, err
}

// streamError says why the tar reader has failed: because of the stream below it, or because that is no tar.
func (t *Tar) streamError(err error) error {
	s := t.stream
	if s.err == nil {
		// A stream that is not what its digest says is to be reported as that.
		_, _ = io.Copy(io.Discard, s)
	}
	if s.err != nil {
		return s.err
	}
	return malformed(err)
}

// entry converts a header. ok is false if there is nothing to be done for it.
func (t *Tar) entry(h *tar.Header) (e Entry, ok bool, err error) {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return e, false, nil // a comment, as in archives of git
	}
	p, err := clean(h.Name)
	if err != nil {
		return e, false, err
	}
	target, kind, ignored, err := whiteout(p)
	if err != nil {
		return e, false, err
	}
	if ignored {
		t.notes.Note(NoteMeta, p, "")
		return e, false, nil
	}
	if kind.Whites() {
		return Entry{Path: target, Kind: kind}, true, nil
	}
	e.Path = p
	if err := t.fill(&e, h); err != nil {
		return e, false, err
	}
	if p == "." && e.Kind != Dir {
		return e, false, fmt.Errorf("%w: the root has to be a directory", ErrUnsafePath)
	}
	return e, true, nil
}

func (t *Tar) fill(e *Entry, h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.Kind, e.Size = File, h.Size
	case tar.TypeDir:
		e.Kind = Dir
	case tar.TypeSymlink:
		e.Kind, e.Link = Symlink, h.Linkname
		if err := checkTarget(h.Linkname); err != nil {
			return err
		}
	case tar.TypeLink:
		e.Kind = HardLink
		link, err := clean(h.Linkname)
		if err != nil {
			return fmt.Errorf("link target: %w", err)
		}
		e.Link = link
		return nil // it has no attributes of its own
	case tar.TypeChar, tar.TypeBlock:
		e.Kind = Char
		if h.Typeflag == tar.TypeBlock {
			e.Kind = Block
		}
		if h.Devmajor < 0 || h.Devmajor > maxMajor || h.Devminor < 0 || h.Devminor > maxMinor {
			return fmt.Errorf("%w: device number %d:%d", ErrFormat, h.Devmajor, h.Devminor)
		}
		e.Major, e.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	case tar.TypeFifo:
		e.Kind = FIFO
	default:
		return fmt.Errorf("%w: tar entry of type %q", errors.ErrUnsupported, h.Typeflag)
	}
	return t.attributes(e, h)
}

func (t *Tar) attributes(e *Entry, h *tar.Header) error {
	if h.Uid < 0 || int64(h.Uid) > maxID || h.Gid < 0 || int64(h.Gid) > maxID {
		return malformedf("owner %d:%d", h.Uid, h.Gid)
	}
	if h.Size < 0 {
		return malformedf("size %d", h.Size)
	}
	if err := t.budget.addDeclared(e.Size); err != nil {
		return err
	}
	e.UID, e.GID = uint32(h.Uid), uint32(h.Gid)
	e.Mode = h.FileInfo().Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	if e.Kind == Symlink {
		e.Mode = fs.ModePerm // as all links have it on Linux
	}
	e.ModTime = uint32(min(max(h.ModTime.Unix(), 0), maxTime))
	xattrs, err := paxXattrs(h.PAXRecords)
	if err != nil {
		return err
	}
	e.Xattrs = KeepXattrs(e.Kind, xattrs, func(name string) { t.notes.Note(NoteXattr, e.Path, name) })
	return nil
}

func checkTarget(target string) error {
	switch {
	case target == "":
		return malformedf("symbolic link without a target")
	case len(target) > maxTarget:
		return &LimitError{What: "bytes in a link target", Limit: maxTarget}
	}
	for i := range len(target) {
		if target[i] == 0 {
			return fmt.Errorf("%w: NUL byte in a link target", ErrUnsafePath)
		}
	}
	return nil
}
