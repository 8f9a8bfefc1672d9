package export

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"time"

	"hpcimg/squashfs"
)

// paxXattr begins the names of PAX records that are extended attributes.
const paxXattr = "SCHILY.xattr."

// TarOptions says how to write a tar stream. A nil *TarOptions and the zero value mean the same.
type TarOptions struct {
	Workers  int                      // reading ahead; default GOMAXPROCS
	Progress func(n int64)            // called with bytes of contents as they are written
	Skipped  func(path string)        // called for what tar has no room for
	Accept   func(path string) bool   // says which entries are written, and with directories what is in them; default all
	Rename   func(path string) string // gives entries other names in the stream
}

// Tar writes the tree to w. It returns when no goroutine reads from r any more.
func Tar(ctx context.Context, w io.Writer, r *squashfs.Reader, opts *TarOptions) error {
	t := &tarWriter{ahead: newAhead(ctx, opts), tar: tar.NewWriter(w)}
	if opts != nil {
		t.opts = *opts
	}
	t.ahead.start(func(emit func(item) error) error {
		return walk(r.Root(), ".", 0, t.opts.Accept, emit)
	})
	err := t.all()
	t.ahead.stop()
	if err == nil {
		err = t.tar.Close()
	}
	if err != nil {
		return fmt.Errorf("tar: %w", err)
	}
	return nil
}

// maxDepth bounds how deep directories may be nested: squashfs has no limit, and a path of Linux has no room for more.
const maxDepth = 2048

// walk calls emit for a file and all below it.
func walk(in *squashfs.Inode, path string, depth int, accept func(string) bool, emit func(item) error) error {
	if accept != nil && !accept(path) {
		return nil
	}
	if depth > maxDepth {
		return &fs.PathError{Op: "read", Path: path[:min(len(path), 200)], Err: fmt.Errorf("more than %d nested directories", maxDepth)}
	}
	if err := emit(item{path: path, in: in}); err != nil || !in.IsDir() {
		return err
	}
	prefix := path + "/"
	if path == "." {
		prefix = ""
	}
	for e, err := range in.ReadDir(0) {
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		child, err := in.Child(e)
		if err != nil {
			return fmt.Errorf("%s%s: %w", prefix, e.Name, err)
		}
		if err := walk(child, prefix+e.Name, depth+1, accept, emit); err != nil {
			return err
		}
	}
	return nil
}

type tarWriter struct {
	opts  TarOptions
	ahead *ahead
	tar   *tar.Writer
}

func (t *tarWriter) all() error {
	for {
		next, err := t.ahead.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if next.chunk == nil {
			if err := t.header(next); err != nil {
				return &fs.PathError{Op: "write", Path: next.path, Err: err}
			}
			continue
		}
		_, err = t.tar.Write(next.chunk.data)
		if t.opts.Progress != nil {
			t.opts.Progress(int64(len(next.chunk.data)))
		}
		t.ahead.free(next.chunk)
		if err != nil {
			return &fs.PathError{Op: "write", Path: next.path, Err: err}
		}
	}
}

// header writes the header of an entry. The contents of a file follow as chunks.
func (t *tarWriter) header(i item) error {
	in := i.in
	h := &tar.Header{
		Name: t.name(i.path), Mode: int64(in.Mode().Perm()), Uid: int(in.UID()), Gid: int(in.GID()),
		ModTime: time.Unix(in.ModTime().Unix(), 0), Format: tar.FormatPAX,
	}
	for bit, mode := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if in.Mode()&mode != 0 {
			h.Mode |= bit
		}
	}
	if i.link != "" {
		h.Typeflag, h.Linkname = tar.TypeLink, t.name(i.link)
		return t.tar.WriteHeader(h)
	}
	switch in.Mode().Type() {
	case 0:
		h.Typeflag, h.Size = tar.TypeReg, in.Size()
	case fs.ModeDir:
		h.Typeflag = tar.TypeDir
		h.Name += "/"
	case fs.ModeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, in.Readlink()
	case fs.ModeDevice:
		h.Typeflag = tar.TypeBlock
	case fs.ModeDevice | fs.ModeCharDevice:
		h.Typeflag = tar.TypeChar
	case fs.ModeNamedPipe:
		h.Typeflag = tar.TypeFifo
	default:
		if t.opts.Skipped != nil {
			t.opts.Skipped(i.path)
		}
		return nil
	}
	if h.Typeflag == tar.TypeBlock || h.Typeflag == tar.TypeChar {
		h.Devmajor, h.Devminor = int64(in.Rdev().Major), int64(in.Rdev().Minor)
	}
	xattrs, err := in.Xattrs()
	if err != nil {
		return err
	}
	for name, value := range xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string, len(xattrs))
		}
		h.PAXRecords[paxXattr+name] = value
	}
	return t.tar.WriteHeader(h)
}

func (t *tarWriter) name(path string) string {
	if t.opts.Rename != nil {
		return t.opts.Rename(path)
	}
	return path
}
