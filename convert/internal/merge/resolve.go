package merge

import (
	"fmt"
	"iter"
	"strings"

	"hpcimg/convert/internal/layer"
)

// maxLinks is how many symbolic links may have to be followed for one path; umoci and containerd have the same.
const maxLinks = 255

// place is where a path leads: to a node, or to what would lie below it if it were there.
type place struct {
	node    *node
	missing []string
	length  int // bytes of the path
}

// components yields the parts of a path that matter.
func components(path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range strings.SplitSeq(path, "/") {
			if name != "" && name != "." && !yield(name) {
				return
			}
		}
	}
}

// resolve follows path inside the root, the last component included. ".." at the root stays there, and what is not there,
// or lies below a file, is taken as a directory to be made.
func (t *Tree) resolve(path string) (place, error) {
	at := place{node: t.root}
	links := 0
	for rest := path; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			at.up(t.root)
			continue
		}
		if len(name) > layer.MaxName {
			return at, &layer.LimitError{What: "bytes in a name", Limit: layer.MaxName}
		}
		next := at.next(name)
		if next == nil {
			at.missing = append(at.missing, name)
			at.length += len(name) + 1
		} else if next.inode.Kind != layer.Symlink {
			at.node = next
			at.length += len(name) + 1
		} else {
			if links++; links > maxLinks {
				return at, fmt.Errorf("%w: more than %d symbolic links to follow", layer.ErrUnsafePath, maxLinks)
			}
			if strings.HasPrefix(next.inode.Link, "/") {
				at = place{node: t.root}
			}
			rest = next.inode.Link + "/" + rest
		}
		if at.length > layer.MaxPath {
			return at, &layer.LimitError{What: "bytes in a path", Limit: layer.MaxPath}
		}
	}
	return at, nil
}

// next returns what is there under name, or nil.
func (p *place) next(name string) *node {
	if len(p.missing) > 0 {
		return nil
	}
	return p.node.child(name)
}

func (p *place) up(root *node) {
	switch n := len(p.missing); {
	case n > 0:
		p.length -= len(p.missing[n-1]) + 1
		p.missing = p.missing[:n-1]
	case p.node != root:
		p.length -= len(p.node.name) + 1
		p.node = p.node.parent
	}
}

// makeDir returns the directory at path, which is made if need be.
func (t *Tree) makeDir(path string) (*node, error) {
	if t.dirs.at != nil && t.dirs.path == path {
		return t.dirs.at, nil
	}
	at, err := t.resolve(path)
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w", clip(path), err)
	}
	n := at.node
	if !n.isDir() {
		// What is in the way of a path is no directory: the path wins.
		parent, name := n.parent, n.name
		t.remove(n)
		n = t.add(parent, name, t.implicitDir())
	}
	for _, name := range at.missing {
		n = t.add(n, name, t.implicitDir())
	}
	t.dirs = dirCache{path: path, at: n}
	return n, nil
}

// findDir returns the directory at path, or nil if there is none.
func (t *Tree) findDir(path string) (*node, error) {
	if t.dirs.at != nil && t.dirs.path == path {
		return t.dirs.at, nil
	}
	at, err := t.resolve(path)
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w", clip(path), err)
	}
	if len(at.missing) > 0 || !at.node.isDir() {
		return nil, nil
	}
	return at.node, nil
}

func clip(path string) string {
	const most = 200
	if len(path) > most {
		return fmt.Sprintf("%q…", path[:most])
	}
	return fmt.Sprintf("%q", path)
}
