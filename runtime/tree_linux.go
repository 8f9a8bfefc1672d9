package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
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

// squashImage is an image in a file, which the plan keeps open. It serves planning, which asks for the same names again and again, and remembers what was
// found: a directory may be as long as whoever has made the image likes, and without an index all of it is read for each name.
type squashImage struct {
	ctx   context.Context
	r     *squashfs.Reader
	found map[string]squashNode
}

type squashNode struct {
	in  *squashfs.Inode
	err error
}

// maxFound bounds what is remembered.
const maxFound = 4096

func newSquashImage(ctx context.Context, r *squashfs.Reader) *squashImage {
	return &squashImage{ctx: ctx, r: r, found: make(map[string]squashNode)}
}

func (s *squashImage) Close() error { return nil }

// inode returns the inode of rel, as the kernel would: not of names that are longer than it takes.
func (s *squashImage) inode(rel string) (*squashfs.Inode, error) {
	if rel == "." {
		return s.r.Root(), nil
	}
	if n, ok := s.found[rel]; ok {
		return n.in, n.err
	}
	if len(rel) >= unix.PathMax {
		return nil, unix.ENAMETOOLONG
	}
	dir, err := s.inode(path.Dir(rel))
	if err != nil {
		return nil, err
	}
	if err := s.ctx.Err(); err != nil {
		return nil, err
	}
	in, err := dir.Lookup(path.Base(rel))
	if len(s.found) < maxFound {
		s.found[rel] = squashNode{in, err}
	}
	return in, err
}

func (s *squashImage) lookup(rel string) (nodeKind, string, error) {
	in, err := s.inode(rel)
	if isAbsent(err) {
		return nodeNone, "", nil
	} else if err != nil {
		return nodeNone, "", &fs.PathError{Op: "lookup", Path: rel, Err: err}
	}
	return kindOf(in.Mode()), in.Readlink(), nil
}

func (s *squashImage) readFile(rel string, limit int64) ([]byte, error) {
	in, err := s.inode(rel)
	switch {
	case err != nil:
		return nil, &fs.PathError{Op: "open", Path: rel, Err: err}
	case !in.Mode().IsRegular():
		return nil, notRegular(rel)
	case in.Size() > limit:
		return nil, tooLong(rel, limit)
	}
	data := make([]byte, in.Size())
	if _, err := in.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, &fs.PathError{Op: "read", Path: rel, Err: err}
	}
	return data, nil
}

func tooLong(name string, limit int64) error {
	return &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("more than %d bytes", limit)}
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
		err = tooLong(name, limit)
	}
	return data, err
}
