package squashfs

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
)

// owner is what [Writer.FromFS] asks a [fs.FileInfo] for, beyond its own
// methods: user and group. [FileInfo] has it.
type owner interface {
	UID() uint32
	GID() uint32
}

type xattrer interface {
	Xattrs() (map[string]string, error)
}

type rdever interface{ Rdev() Rdev }

type linked interface {
	Inode() uint32
	LinkCount() uint32
}

// FromFS adds all of fsys. Ownership, device numbers, extended attributes and
// hard links are kept if the [fs.FileInfo]s of fsys have the methods of
// [FileInfo] for these, as those of a [Reader] do; else everything belongs to
// root. Symbolic links take a file system with [fs.ReadLinkFS].
func (w *Writer) FromFS(ctx context.Context, fsys fs.FS) error {
	a := fsAdder{w: w, fsys: fsys, links: make(map[uint32]string)}
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return a.add(ctx, p, info)
	})
	return prefixed(err)
}

type fsAdder struct {
	w     *Writer
	fsys  fs.FS
	links map[uint32]string // first path of an inode with several
}

func (a *fsAdder) add(ctx context.Context, p string, info fs.FileInfo) error {
	e := Entry{Path: p, Mode: info.Mode(), ModTime: info.ModTime()}
	if l, ok := info.(linked); ok && l.LinkCount() > 1 && !info.IsDir() {
		if first, ok := a.links[l.Inode()]; ok {
			return a.w.Add(ctx, Entry{Path: p, HardLink: first}, nil)
		}
		a.links[l.Inode()] = p
	}
	if o, ok := info.(owner); ok {
		e.UID, e.GID = o.UID(), o.GID()
	}
	if r, ok := info.(rdever); ok && e.Mode&fs.ModeDevice != 0 {
		e.Rdev = r.Rdev()
	}
	var err error
	if x, ok := info.(xattrer); ok {
		if e.Xattrs, err = x.Xattrs(); err != nil {
			return err
		}
	}
	switch e.Mode.Type() {
	case fs.ModeSymlink:
		if e.Target, err = fs.ReadLink(a.fsys, p); err != nil {
			return err
		}
	case 0:
		return a.addFile(ctx, e)
	}
	return a.w.Add(ctx, e, nil)
}

func (a *fsAdder) addFile(ctx context.Context, e Entry) error {
	f, err := a.fsys.Open(e.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	// The size may have changed since the directory was read.
	info, err := f.Stat()
	if err != nil {
		return err
	}
	e.Size = info.Size()
	return a.w.Add(ctx, e, f)
}

// prefixed adds the package's name to errors that come from elsewhere.
func prefixed(err error) error {
	if err == nil || hasPrefix(err) {
		return err
	}
	return fmt.Errorf("squashfs: %w", err)
}

func hasPrefix(err error) bool { return strings.HasPrefix(err.Error(), "squashfs: ") }
