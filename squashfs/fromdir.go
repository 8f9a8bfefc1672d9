package squashfs

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
)

// FromDirOptions configures [Writer.FromDir].
type FromDirOptions struct {
	// Skip, if set, is asked about each extended attribute by the path of
	// its file, relative to the root, and its name. Those for which it says
	// true are left out. Attributes that the format has no room for
	// ([XattrSupported]) are left out in any case, and reported to it.
	Skip func(path, xattr string) bool
}

// FromDir adds the directory root of the host and all that lies in it, with
// ownership, devices, hard links and, on Linux, extended attributes. Symbolic
// links are not followed, root itself excepted. Sockets are left out: nobody
// can listen on one in an image.
//
// A file that grows while it is read is cut off at the size that it had, and
// one that shrinks is an error.
func (w *Writer) FromDir(ctx context.Context, root string, opts *FromDirOptions) error {
	if opts == nil {
		opts = &FromDirOptions{}
	}
	// With an os.Root no name can lead out, whatever others do to the tree
	// in the meantime.
	dir, err := os.OpenRoot(root)
	if err != nil {
		return prefixed(err)
	}
	defer dir.Close()
	a := dirAdder{w: w, root: dir, opts: *opts, links: make(map[hostInode]string)}
	defer a.leave()
	return prefixed(a.addTree(ctx, "."))
}

// hostInode names a file of the host that may have several names.
type hostInode struct{ dev, ino uint64 }

type dirAdder struct {
	w     *Writer
	root  *os.Root
	opts  FromDirOptions
	links map[hostInode]string

	dir     *os.Root // of the last entry, so that each path need not be walked
	dirPath string
}

// enter opens the directory of p, unless it is open, and returns it with the
// last element of p.
func (a *dirAdder) enter(p string) (*os.Root, string, error) {
	parent, name := path.Dir(p), path.Base(p)
	if a.dir != nil && a.dirPath == parent {
		return a.dir, name, nil
	}
	a.leave()
	dir, err := a.root.OpenRoot(parent)
	if err != nil {
		return nil, "", err
	}
	a.dir, a.dirPath = dir, parent
	return dir, name, nil
}

func (a *dirAdder) leave() {
	if a.dir != nil {
		a.dir.Close()
		a.dir = nil
	}
}

// hostError gives an error about the last element of p the whole path.
func hostError(p string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return &fs.PathError{Op: pe.Op, Path: p, Err: pe.Err}
	}
	return err
}

func (a *dirAdder) addTree(ctx context.Context, p string) error {
	return fs.WalkDir(a.root.FS(), p, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return a.add(ctx, path.Clean(p))
	})
}

func (a *dirAdder) add(ctx context.Context, p string) error {
	dir, name, err := a.enter(p)
	if err != nil {
		return err
	}
	info, err := dir.Lstat(name)
	if err != nil {
		return hostError(p, err)
	}
	e := Entry{Path: p, Mode: info.Mode(), ModTime: info.ModTime()}
	switch e.Mode.Type() {
	case fs.ModeSocket:
		return nil
	case fs.ModeSymlink:
		if e.Target, err = dir.Readlink(name); err != nil {
			return hostError(p, err)
		}
	}
	ino, links := describeHost(&e, info)
	if links > 1 && !e.Mode.IsDir() {
		if first, ok := a.links[ino]; ok {
			return a.w.Add(ctx, Entry{Path: p, HardLink: first}, nil)
		}
		a.links[ino] = p
	}
	if e.Mode.IsRegular() {
		return a.addFile(ctx, e, dir, name)
	}
	if err := a.addXattrs(&e, dir, name, nil); err != nil {
		return err
	}
	return a.w.Add(ctx, e, nil)
}

func (a *dirAdder) addFile(ctx context.Context, e Entry, dir *os.Root, name string) error {
	f, err := dir.Open(name)
	if err != nil {
		return hostError(e.Path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return &fs.PathError{Op: "open", Path: e.Path, Err: fs.ErrInvalid}
	}
	e.Size = info.Size()
	if err := a.addXattrs(&e, dir, name, f); err != nil {
		return err
	}
	return a.w.Add(ctx, e, f)
}

// addXattrs reads the attributes of e, which is open as f or not at all.
func (a *dirAdder) addXattrs(e *Entry, dir *os.Root, name string, f *os.File) error {
	all, err := hostXattrs(dir, name, f)
	if err != nil {
		return hostError(e.Path, err)
	}
	for name, value := range all {
		skip := a.opts.Skip != nil && a.opts.Skip(e.Path, name)
		if skip || !XattrSupported(name) {
			continue
		}
		if e.Xattrs == nil {
			e.Xattrs = make(map[string]string)
		}
		e.Xattrs[name] = value
	}
	return nil
}
