package squashfs

import (
	"context"
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
	return prefixed(a.addTree(ctx, "."))
}

// hostInode names a file of the host that may have several names.
type hostInode struct{ dev, ino uint64 }

type dirAdder struct {
	w     *Writer
	root  *os.Root
	opts  FromDirOptions
	links map[hostInode]string
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
	info, err := a.root.Lstat(p)
	if err != nil {
		return err
	}
	e := Entry{Path: p, Mode: info.Mode(), ModTime: info.ModTime()}
	switch e.Mode.Type() {
	case fs.ModeSocket:
		return nil
	case fs.ModeSymlink:
		if e.Target, err = a.root.Readlink(p); err != nil {
			return err
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
		return a.addFile(ctx, e)
	}
	if err := a.addXattrs(&e, nil); err != nil {
		return err
	}
	return a.w.Add(ctx, e, nil)
}

func (a *dirAdder) addFile(ctx context.Context, e Entry) error {
	f, err := a.root.Open(e.Path)
	if err != nil {
		return err
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
	if err := a.addXattrs(&e, f); err != nil {
		return err
	}
	return a.w.Add(ctx, e, f)
}

// addXattrs reads the attributes of e, which is open as f or not at all.
func (a *dirAdder) addXattrs(e *Entry, f *os.File) error {
	all, err := hostXattrs(a.root, e.Path, f)
	if err != nil {
		return err
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
