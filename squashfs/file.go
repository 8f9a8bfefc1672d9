package squashfs

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"sync"
	"syscall"
)

var (
	errNegativeOffset = errors.New("squashfs: negative offset")
	errWhence         = errors.New("squashfs: invalid whence")
)

// readable says why in is not a regular file.
func (in *Inode) readable() error {
	switch {
	case in.isRegular():
		return nil
	case in.IsDir():
		return syscall.EISDIR
	}
	return fs.ErrInvalid
}

// special reports whether in is neither a file nor a directory. Nothing of a
// device is in an image, so as a file it is empty.
func (in *Inode) special() bool { return !in.isRegular() && !in.IsDir() }

// openFile is what Open returns for anything but a directory.
type openFile struct {
	in     *Inode
	name   string
	mu     sync.Mutex
	off    int64
	closed bool
}

func (f *openFile) fail(op string, err error) error {
	if err == nil || err == io.EOF { //nolint:errorlint // io.EOF must stay bare
		return err
	}
	return &fs.PathError{Op: op, Path: f.name, Err: err}
}

// Stat implements fs.File.
func (f *openFile) Stat() (fs.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, f.fail("stat", fs.ErrClosed)
	}
	return newFileInfo(f.name, f.in), nil
}

// Read implements io.Reader.
func (f *openFile) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, f.fail("read", fs.ErrClosed)
	}
	if f.in.special() {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, f.fail("read", f.in.readable())
	}
	n, err := f.in.ReadAt(p, f.off)
	f.off += int64(n)
	if n > 0 && err == io.EOF { //nolint:errorlint // ReadAt returns it bare
		err = nil
	}
	return n, f.fail("read", err)
}

// ReadAt implements io.ReaderAt.
func (f *openFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	closed := f.closed
	f.mu.Unlock()
	switch {
	case closed:
		return 0, f.fail("read", fs.ErrClosed)
	case f.in.special() && off >= 0:
		return 0, io.EOF
	case f.in.special():
		return 0, f.fail("read", errNegativeOffset)
	}
	n, err := f.in.ReadAt(p, off)
	return n, f.fail("read", err)
}

// Seek implements io.Seeker.
func (f *openFile) Seek(offset int64, whence int) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, f.fail("seek", fs.ErrClosed)
	}
	var base int64
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		base = f.off
	case io.SeekEnd:
		base = f.in.Size()
	default:
		return 0, f.fail("seek", errWhence)
	}
	if offset > math.MaxInt64-base || base+offset < 0 {
		return 0, f.fail("seek", errNegativeOffset)
	}
	f.off = base + offset
	return f.off, nil
}

// WriteTo implements io.WriterTo. It decodes several blocks at a time, and
// does not fill the cache.
func (f *openFile) WriteTo(w io.Writer) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, f.fail("read", fs.ErrClosed)
	}
	if f.in.special() {
		return 0, nil
	}
	if err := f.in.readable(); err != nil {
		return 0, f.fail("read", err)
	}
	n, err := f.in.writeTo(w, f.off)
	f.off += n
	return n, f.fail("read", err)
}

// Close implements fs.File.
func (f *openFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return f.fail("close", fs.ErrClosed)
	}
	f.closed = true
	return nil
}

// openDir is what Open returns for a directory.
type openDir struct {
	openFile
	next uint64
	eof  bool
}

// ReadDir implements fs.ReadDirFile.
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, d.fail("readdir", fs.ErrClosed)
	}
	list := []fs.DirEntry{}
	if !d.eof {
		for e, err := range d.in.ReadDir(d.next) {
			if err != nil {
				return list, d.fail("readdir", err)
			}
			list = append(list, &dirEntry{d.in, e})
			d.next = e.Next
			if n > 0 && len(list) == n {
				return list, nil
			}
		}
		d.eof = true
	}
	if n > 0 && len(list) == 0 {
		return list, io.EOF
	}
	return list, nil
}

// dirEntry implements fs.DirEntry. Its inode is read when it is asked for.
type dirEntry struct {
	dir *Inode
	e   Dirent
}

func (d *dirEntry) Name() string      { return d.e.Name }
func (d *dirEntry) IsDir() bool       { return d.e.Type.IsDir() }
func (d *dirEntry) Type() fs.FileMode { return d.e.Type }
func (d *dirEntry) String() string    { return fs.FormatDirEntry(d) }

func (d *dirEntry) Info() (fs.FileInfo, error) {
	in, err := d.dir.Child(d.e)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: d.e.Name, Err: err}
	}
	return newFileInfo(d.e.Name, in), nil
}
