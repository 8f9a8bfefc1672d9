//go:build !linux

package squashfs

import (
	"context"
	"io/fs"
	"os"
	"path"
)

// addAll knows no more than [fs.FileInfo] does: everything belongs to root,
// and each name is a file of its own.
func (a *dirAdder) addAll(ctx context.Context, name string) error {
	root, err := os.OpenRoot(name)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return a.add(ctx, root, path.Clean(p))
	})
}

func (a *dirAdder) add(ctx context.Context, root *os.Root, p string) error {
	info, err := root.Lstat(p)
	if err != nil {
		return err
	}
	e := Entry{Path: p, Mode: info.Mode(), ModTime: info.ModTime()}
	switch e.Mode.Type() {
	case fs.ModeSocket:
		return nil
	case fs.ModeSymlink:
		if e.Target, err = root.Readlink(p); err != nil {
			return err
		}
	case 0:
		return a.addFile(ctx, e, root)
	}
	return a.w.Add(ctx, e, nil)
}

func (a *dirAdder) addFile(ctx context.Context, e Entry, root *os.Root) error {
	f, err := root.Open(e.Path)
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
	return a.w.Add(ctx, e, f)
}
