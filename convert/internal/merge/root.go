package merge

import (
	"fmt"
	"io/fs"
	"strings"

	"hpcimg/convert/internal/layer"
)

// RootFile is something to be added to the tree by AddRoot. No symbolic link is followed on the way to it.
type RootFile struct {
	Path   string
	Mode   fs.FileMode // with the type: directory, symbolic link or regular file
	Data   []byte
	Target string
	Rule   Rule
}

// Rule says what becomes of what has the path of a RootFile.
type Rule int

// The rules.
const (
	Keep        Rule = iota // keep it
	ReplaceLink             // replace a symbolic link
	Overwrite               // replace anything but a directory
	Move                    // move a regular file to the directory and under the name that AddRoot is told, and else Overwrite
)

// Private is the directory in which whatever is in the way of a RootFile is removed. Elsewhere a parent that is no directory
// is left alone, and what would go into it is left out.
const Private = ".singularity.d"

// AddRoot adds files, parents before children. History returns the name in historyDir for the n-th former file.
func (t *Tree) AddRoot(files []RootFile, modTime uint32, historyDir string, history func(n int) string) error {
	t.current++
	for i := range files {
		f := &files[i]
		dirPath, name := split(f.Path)
		dir := t.rootDir(dirPath)
		if dir == nil {
			continue
		}
		old := dir.child(name)
		if old != nil {
			if !t.replaces(f, old) {
				continue
			}
			if f.Rule == Move && old.inode.Kind == layer.File {
				if err := t.move(old, historyDir, history); err != nil {
					return err
				}
			} else {
				t.remove(old)
			}
		}
		t.touch(t.add(dir, name, rootInode(f, modTime)))
	}
	t.dirs.at = nil
	return nil
}

// replaces decides whether f takes the place of old.
func (t *Tree) replaces(f *RootFile, old *node) bool {
	switch f.Rule {
	case ReplaceLink:
		return old.inode.Kind == layer.Symlink
	case Overwrite, Move:
		return !old.isDir()
	}
	return f.Mode.IsDir() && private(f.Path) && !old.isDir()
}

func private(path string) bool { return path == Private || strings.HasPrefix(path, Private+"/") }

// rootDir returns the directory at path, or nil if what is there is something else. It makes what is missing.
func (t *Tree) rootDir(path string) *node {
	n := t.root
	at := ""
	for name := range components(path) {
		at = strings.TrimPrefix(at+"/"+name, "/")
		next := n.child(name)
		switch {
		case next == nil:
			next = t.add(n, name, t.implicitDir())
		case next.isDir():
		case private(at):
			t.remove(next)
			next = t.add(n, name, t.implicitDir())
		default:
			return nil
		}
		n = next
	}
	return n
}

func (t *Tree) move(old *node, historyDir string, history func(n int) string) error {
	dir := t.rootDir(historyDir)
	if dir == nil {
		return fmt.Errorf("%w: %s is not a directory", fs.ErrInvalid, clip(historyDir))
	}
	name := history(len(dir.children))
	t.remove(old)
	if there := dir.child(name); there != nil {
		t.remove(there)
	}
	t.touch(t.add(dir, name, old.inode))
	return nil
}

func rootInode(f *RootFile, modTime uint32) *Inode {
	e := &layer.Entry{Path: f.Path, Mode: permission(f.Mode), ModTime: modTime}
	switch f.Mode.Type() {
	case fs.ModeDir:
		e.Kind = layer.Dir
	case fs.ModeSymlink:
		e.Kind, e.Link = layer.Symlink, f.Target
	default:
		e.Kind, e.Size = layer.File, int64(len(f.Data))
	}
	return &Inode{Entry: e, Layer: -1, Index: -1, Data: f.Data}
}
