package layer

import (
	"io"
	"io/fs"
	"os"
	"path"
)

// DirReader reads a directory of the host as if it were a layer.
type DirReader struct {
	root   *os.Root
	budget *Budget
	notes  Notes
	links  map[hostInode]string
	todo   []string // paths, the next one last
	file   *os.File // the current one
	skip   fs.FileInfo
}

// hostInode names a file of the host that may have several names.
type hostInode struct{ dev, ino uint64 }

// OpenDir opens the directory at root. Symbolic links below it are not followed, and no name can lead out of it, whatever
// others do to the tree in the meantime. The file skip, if not nil, is left out: the image that is being made may be in there.
func OpenDir(root string, skip fs.FileInfo, budget *Budget, notes Notes) (*DirReader, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	return &DirReader{
		root: r, skip: skip, budget: budget, notes: notes,
		links: make(map[hostInode]string), todo: []string{"."},
	}, nil
}

// Close closes the directory.
func (d *DirReader) Close() error {
	d.closeFile()
	return d.root.Close()
}

func (d *DirReader) closeFile() {
	if d.file != nil {
		_ = d.file.Close()
		d.file = nil
	}
}

// Read reads the contents of the current entry.
func (d *DirReader) Read(p []byte) (int, error) {
	if d.file == nil {
		return 0, io.EOF
	}
	return d.file.Read(p)
}

// Next returns the next entry, in the order of the paths' components, or io.EOF.
func (d *DirReader) Next() (Entry, error) {
	d.closeFile()
	for len(d.todo) > 0 {
		last := len(d.todo) - 1
		p := d.todo[last]
		d.todo = d.todo[:last]
		if err := d.budget.addEntry(); err != nil {
			return Entry{}, err
		}
		e, ok, err := d.entry(p)
		if err == nil && ok {
			err = d.budget.addText(&e)
		}
		if err != nil || ok {
			return e, err
		}
	}
	return Entry{}, io.EOF
}

func (d *DirReader) entry(p string) (e Entry, ok bool, err error) {
	if _, err := clean(p); err != nil {
		return e, false, &EntryError{Name: p, Err: err}
	}
	info, err := d.root.Lstat(p)
	if err != nil {
		return e, false, err
	}
	if d.skip != nil && os.SameFile(info, d.skip) {
		return e, false, nil
	}
	e = Entry{Path: p}
	switch info.Mode().Type() {
	case 0:
		e.Kind = File
	case fs.ModeDir:
		e.Kind = Dir
		if err := d.push(p); err != nil {
			return e, false, err
		}
	case fs.ModeSymlink:
		e.Kind = Symlink
		if e.Link, err = d.root.Readlink(p); err != nil {
			return e, false, err
		}
	case fs.ModeDevice:
		e.Kind = Block
	case fs.ModeDevice | fs.ModeCharDevice:
		e.Kind = Char
	case fs.ModeNamedPipe:
		e.Kind = FIFO
	default:
		d.notes.Note(NoteSocket, p, "")
		return e, false, nil
	}
	if d.hardLink(&e, info) {
		return e, true, nil
	}
	if e.Kind == File {
		if info, err = d.openFile(p); err != nil {
			return e, false, err
		}
		e.Size = info.Size()
	}
	if err := d.attributes(&e, info); err != nil {
		return e, false, &EntryError{Name: p, Err: err}
	}
	return e, true, nil
}

// push puts what is in the directory p on the list.
func (d *DirReader) push(p string) error {
	entries, err := fs.ReadDir(d.root.FS(), p)
	if err != nil {
		return err
	}
	for i := len(entries) - 1; i >= 0; i-- {
		d.todo = append(d.todo, path.Join(p, entries[i].Name()))
	}
	return nil
}

// hardLink makes e a hard link if it is a further name of a file that we have had.
func (d *DirReader) hardLink(e *Entry, info fs.FileInfo) bool {
	ino, links := hostIdentity(info)
	if links < 2 || e.Kind == Dir {
		return false
	}
	first, ok := d.links[ino]
	if !ok {
		d.links[ino] = e.Path
		return false
	}
	*e = Entry{Path: e.Path, Kind: HardLink, Link: first}
	return true
}

func (d *DirReader) openFile(p string) (fs.FileInfo, error) {
	// What has become a FIFO since it was looked at must not hold us up.
	f, err := d.root.OpenFile(p, os.O_RDONLY|nonBlock, 0)
	if err != nil {
		return nil, err
	}
	d.file = f
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: p, Err: fs.ErrInvalid}
	}
	return info, err
}

func (d *DirReader) attributes(e *Entry, info fs.FileInfo) error {
	e.Mode = info.Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	if e.Kind == Symlink {
		e.Mode = fs.ModePerm
	}
	e.ModTime = uint32(min(max(info.ModTime().Unix(), 0), maxTime))
	hostOwner(e, info)
	if err := d.budget.addDeclared(e.Size); err != nil {
		return err
	}
	all, err := hostXattrs(d.root, e.Path, d.file)
	if err != nil {
		return err
	}
	e.Xattrs = KeepXattrs(e.Kind, all, func(name string) { d.notes.Note(NoteXattr, e.Path, name) })
	return nil
}
