package runtime

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"hpcimg/squashfs"
)

type nodeKind uint8

const (
	nodeNone nodeKind = iota
	nodeDir
	nodeFile // anything that is neither directory nor symbolic link
	nodeLink
)

// tree is what a layer of the layout asks its files. Paths are relative, clean, and their parents no symbolic links.
type tree interface {
	lookup(rel string) (kind nodeKind, link string, err error)
}

// image is the tree of an image, of which some files are read.
type image interface {
	tree
	io.Closer
	// readFile reads a regular file, and no other: a FIFO would block, a device might do anything.
	readFile(rel string, limit int64) ([]byte, error)
}

func kindOf(mode fs.FileMode) nodeKind {
	switch mode.Type() {
	case fs.ModeDir:
		return nodeDir
	case fs.ModeSymlink:
		return nodeLink
	}
	return nodeFile
}

func isAbsent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

// hostTree is a file or directory of the host that is bound.
type hostTree string

func (h hostTree) lookup(rel string) (nodeKind, string, error) {
	name := filepath.Join(string(h), rel)
	info, err := os.Lstat(name)
	if isAbsent(err) {
		return nodeNone, "", nil
	} else if err != nil {
		return nodeNone, "", err
	}
	kind := kindOf(info.Mode())
	if kind != nodeLink {
		return kind, "", nil
	}
	link, err := os.Readlink(name)
	return kind, link, err
}

// dirImage is an image that is a directory of the host.
type dirImage struct {
	dir *os.File
	// layer: it lies over others, and hides files of theirs by devices 0:0.
	layer bool
}

// lookup does without names of the host: a directory that has just become a symbolic link would lead there.
func (d *dirImage) lookup(rel string) (nodeKind, string, error) {
	fd, st, err := d.open(rel)
	if isAbsent(err) {
		return nodeNone, "", nil
	} else if err != nil {
		return nodeNone, "", err
	}
	defer unix.Close(fd)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return nodeDir, "", nil
	case unix.S_IFLNK:
		link := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", link)
		if err != nil {
			return nodeNone, "", d.fail("readlinkat", rel, err)
		}
		return nodeLink, string(link[:n]), nil
	}
	if d.hides(st) {
		return nodeNone, "", nil
	}
	return nodeFile, "", nil
}

// open opens rel for reference only: what a device does when it is opened is not for an image to decide.
func (d *dirImage) open(rel string) (fd int, st *unix.Stat_t, err error) {
	fd, err = unix.Openat2(int(d.dir.Fd()), rel, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return -1, nil, d.fail("openat2", rel, err)
	}
	st = new(unix.Stat_t)
	if err := unix.Fstat(fd, st); err != nil {
		_ = unix.Close(fd)
		return -1, nil, d.fail("fstat", rel, err)
	}
	return fd, st, nil
}

func (d *dirImage) fail(op, rel string, err error) error {
	return &fs.PathError{Op: op, Path: filepath.Join(d.dir.Name(), rel), Err: err}
}

// hides says whether a file is one by which an overlay hides those below it.
func (d *dirImage) hides(st *unix.Stat_t) bool {
	return d.layer && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

func (d *dirImage) whiteout(rel string) bool {
	fd, st, err := d.open(rel)
	if err != nil {
		return false
	}
	_ = unix.Close(fd)
	return d.hides(st)
}

func (d *dirImage) Close() error { return d.dir.Close() }

func (d *dirImage) readFile(rel string, limit int64) ([]byte, error) {
	ref, st, err := d.open(rel)
	if err != nil {
		return nil, err
	}
	defer unix.Close(ref)
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, notRegular(rel)
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", ref), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, d.fail("open", rel, err)
	}
	f := os.NewFile(uintptr(fd), rel)
	defer f.Close()
	return readBounded(f, rel, limit)
}

// squashImage is an image in a file, which the plan keeps open.
type squashImage struct{ r *squashfs.Reader }

func (s *squashImage) Close() error { return nil }

func (s *squashImage) lookup(rel string) (nodeKind, string, error) {
	info, err := s.r.Lstat(rel)
	if isAbsent(err) || errors.Is(err, squashfs.ErrNotDirectory) {
		return nodeNone, "", nil
	} else if err != nil {
		return nodeNone, "", err
	}
	kind := kindOf(info.Mode())
	if kind != nodeLink {
		return kind, "", nil
	}
	link, err := s.r.ReadLink(rel)
	return kind, link, err
}

func (s *squashImage) readFile(rel string, limit int64) ([]byte, error) {
	info, err := s.r.Lstat(rel)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, notRegular(rel)
	}
	f, err := s.r.Open(rel)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f, rel, limit)
}

func notRegular(name string) error {
	return &fs.PathError{Op: "read", Path: name, Err: errors.New("not a regular file")}
}

func readBounded(f fs.File, name string, limit int64) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, notRegular(name)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("more than %d bytes", limit)}
	}
	return data, err
}
