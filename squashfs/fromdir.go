package squashfs

import (
	"context"
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
// links are not followed, root itself excepted, and no name leads out of root,
// whatever others do to the tree in the meantime. Sockets are left out: nobody
// can listen on one in an image.
//
// A file that grows while it is read is cut off at the size that it had, and
// one that shrinks is an error.
func (w *Writer) FromDir(ctx context.Context, root string, opts *FromDirOptions) error {
	if opts == nil {
		opts = &FromDirOptions{}
	}
	a := dirAdder{w: w, opts: *opts, links: make(map[hostInode]string)}
	return prefixed(a.addAll(ctx, root))
}

// hostInode names a file of the host that may have several names.
type hostInode struct{ dev, ino uint64 }

type dirAdder struct {
	w     *Writer
	opts  FromDirOptions
	links map[hostInode]string // first path of those with several
	buf   []byte
}

// addLink adds p as one more name of a file that has been added, if it is.
func (a *dirAdder) addLink(ctx context.Context, p string, ino hostInode) (added bool, err error) {
	first, ok := a.links[ino]
	if !ok {
		a.links[ino] = p
		return false, nil
	}
	return true, a.w.Add(ctx, Entry{Path: p, HardLink: first}, nil)
}

// wanted reports whether an extended attribute of e goes into the image.
func (a *dirAdder) wanted(e *Entry, name string) bool {
	skip := a.opts.Skip != nil && a.opts.Skip(e.Path, name)
	return !skip && XattrSupported(name)
}
