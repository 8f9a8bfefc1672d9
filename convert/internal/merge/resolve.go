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
	node    nodeID
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
	at := place{node: rootNode}
	links := 0
	for rest := path; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			t.up(&at)
			continue
		}
		if len(name) > layer.MaxName {
			return at, &layer.LimitError{What: "bytes in a name", Limit: layer.MaxName}
		}
		next := t.next(&at, name)
		if next == noNode {
			at.missing = append(at.missing, name)
			at.length += len(name) + 1
		} else if n := t.at(next); n.kind != layer.Symlink {
			at.node = next
			at.length += len(name) + 1
		} else {
			if links++; links > maxLinks {
				return at, fmt.Errorf("%w: more than %d symbolic links to follow", layer.ErrUnsafePath, maxLinks)
			}
			target := t.entry(n).Link
			if strings.HasPrefix(target, "/") {
				at = place{node: rootNode}
			}
			rest = target + "/" + rest
		}
		if at.length > layer.MaxPath {
			return at, &layer.LimitError{What: "bytes in a path", Limit: layer.MaxPath}
		}
	}
	return at, nil
}

// next returns what is there under name, or noNode.
func (t *Tree) next(p *place, name string) nodeID {
	if len(p.missing) > 0 {
		return noNode
	}
	return t.child(p.node, name)
}

func (t *Tree) up(p *place) {
	switch n := len(p.missing); {
	case n > 0:
		p.length -= len(p.missing[n-1]) + 1
		p.missing = p.missing[:n-1]
	case p.node != rootNode:
		n := t.at(p.node)
		p.length -= int(n.nameLen) + 1
		p.node = n.parent
	}
}

// makeDir returns the directory at path, which is made if need be.
func (t *Tree) makeDir(path string) (nodeID, error) {
	if t.dirs.at != noNode && t.dirs.path == path {
		return t.dirs.at, nil
	}
	at, err := t.resolve(path)
	if err != nil {
		return noNode, fmt.Errorf("directory %s: %w", clip(path), err)
	}
	n := at.node
	if !t.isDir(n) {
		// What is in the way of a path is no directory: the path wins.
		old := t.at(n)
		t.remove(n)
		if n, err = t.addDir(old.parent, string(t.nodes.name(old))); err != nil {
			return noNode, err
		}
	}
	for _, name := range at.missing {
		if n, err = t.addDir(n, name); err != nil {
			return noNode, err
		}
	}
	t.dirs = dirCache{path: path, at: n}
	return n, nil
}

// findDir returns the directory at path, or noNode if there is none.
func (t *Tree) findDir(path string) (nodeID, error) {
	if t.dirs.at != noNode && t.dirs.path == path {
		return t.dirs.at, nil
	}
	at, err := t.resolve(path)
	if err != nil {
		return noNode, fmt.Errorf("directory %s: %w", clip(path), err)
	}
	if len(at.missing) > 0 || !t.isDir(at.node) {
		return noNode, nil
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
