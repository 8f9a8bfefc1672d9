//go:build no_gpl || hpcimg_gpl

package calebq42

import (
	"errors"
	"io"
	"io/fs"
	"syscall"

	"github.com/CalebQ42/squashfs"
)

// openFile is a file that is not a directory. It has no WriteTo, so that
// io.Copy uses Read.
type openFile struct {
	name   string
	info   fs.FileInfo
	file   *squashfs.File
	off    int64
	closed bool
}

// Stat implements fs.File.
func (f *openFile) Stat() (fs.FileInfo, error) {
	if f.closed {
		return nil, &fs.PathError{Op: "stat", Path: f.name, Err: fs.ErrClosed}
	}
	return f.info, nil
}

// Read implements io.Reader. The module fails on empty files and ends early in
// files with holes.
func (f *openFile) Read(p []byte) (n int, err error) {
	if f.closed {
		return 0, &fs.PathError{Op: "read", Path: f.name, Err: fs.ErrClosed}
	}
	if len(p) == 0 {
		return 0, nil
	}
	if !f.info.Mode().IsRegular() || f.off >= f.info.Size() {
		return 0, io.EOF
	}
	n, err = f.read(p[:min(int64(len(p)), f.info.Size()-f.off)])
	f.off += int64(n)
	if errors.Is(err, io.EOF) {
		err = nil
		if n == 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil {
		err = &fs.PathError{Op: "read", Path: f.name, Err: err}
	}
	return n, err
}

func (f *openFile) read(p []byte) (n int, err error) {
	defer recovered(&err)
	return f.file.Read(p)
}

// Close implements fs.File.
func (f *openFile) Close() error {
	if f.closed {
		return &fs.PathError{Op: "close", Path: f.name, Err: fs.ErrClosed}
	}
	f.closed = true
	return f.file.Close()
}

// openDir is an open directory.
type openDir struct {
	info fs.FileInfo
	list []fs.DirEntry
}

// Stat implements fs.File.
func (d *openDir) Stat() (fs.FileInfo, error) { return d.info, nil }

// Read implements fs.File.
func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.info.Name(), Err: syscall.EISDIR}
}

// Close implements fs.File.
func (d *openDir) Close() error { return nil }

// ReadDir implements fs.ReadDirFile.
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 {
		n = len(d.list)
	} else if len(d.list) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.list))
	list := d.list[:n:n]
	d.list = d.list[n:]
	return list, nil
}
