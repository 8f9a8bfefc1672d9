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
		if err := t.addRootFile(&files[i], modTime, historyDir, history); err != nil {
			return err
		}
	}
	t.dirs.at = noNode
	return nil
}

func (t *Tree) addRootFile(f *RootFile, modTime uint32, historyDir string, history func(n int) string) error {
	dirPath, name := split(f.Path)
	dir, err := t.rootDir(dirPath)
	if dir == noNode {
		return err
	}
	if old := t.child(dir, name); old != noNode {
		if !t.replaces(f, old) {
			return nil
		}
		if f.Rule == Move && t.at(old).kind == layer.File {
			err = t.move(old, historyDir, history)
		} else {
			t.remove(old)
		}
	}
	if err != nil {
		return err
	}
	e := newRootEntry(f, modTime)
	n, err := t.nodes.add(dir, name, inodeKey{layer: rootLayer, index: int32(len(t.added))}, e.Kind)
	if err != nil {
		return err
	}
	t.added = append(t.added, e)
	t.touch(n)
	return nil
}

// replaces decides whether f takes the place of old.
func (t *Tree) replaces(f *RootFile, old nodeID) bool {
	switch f.Rule {
	case ReplaceLink:
		return t.at(old).kind == layer.Symlink
	case Overwrite, Move:
		return !t.isDir(old)
	}
	return f.Mode.IsDir() && private(f.Path) && !t.isDir(old)
}

func private(path string) bool { return path == Private || strings.HasPrefix(path, Private+"/") }

// rootDir returns the directory at path, or noNode if what is there is something else. It makes what is missing.
func (t *Tree) rootDir(path string) (nodeID, error) {
	n := nodeID(rootNode)
	at := ""
	for name := range components(path) {
		at = strings.TrimPrefix(at+"/"+name, "/")
		next := t.child(n, name)
		if next != noNode && !t.isDir(next) {
			if !private(at) {
				return noNode, nil
			}
			t.remove(next)
			next = noNode
		}
		if next == noNode {
			var err error
			if next, err = t.addDir(n, name); err != nil {
				return noNode, err
			}
		}
		n = next
	}
	return n, nil
}

func (t *Tree) move(old nodeID, historyDir string, history func(n int) string) error {
	dir, err := t.rootDir(historyDir)
	if err != nil {
		return err
	}
	if dir == noNode {
		return fmt.Errorf("%w: %s is not a directory", fs.ErrInvalid, clip(historyDir))
	}
	name := history(len(t.nodes.children(nil, dir)))
	t.remove(old)
	if there := t.child(dir, name); there != noNode {
		t.remove(there)
	}
	from := t.at(old)
	n, err := t.nodes.add(dir, name, from.key(), from.kind)
	if err != nil {
		return err
	}
	t.at(n).linked = from.linked
	t.touch(n)
	return nil
}

func newRootEntry(f *RootFile, modTime uint32) rootEntry {
	e := layer.Entry{Path: f.Path, Mode: permission(f.Mode), ModTime: modTime}
	switch f.Mode.Type() {
	case fs.ModeDir:
		e.Kind = layer.Dir
	case fs.ModeSymlink:
		e.Kind, e.Link = layer.Symlink, f.Target
	default:
		e.Kind, e.Size = layer.File, int64(len(f.Data))
	}
	return rootEntry{e, f.Data}
}
