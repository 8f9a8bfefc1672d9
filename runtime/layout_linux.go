package runtime

import (
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fork"
)

const maxLinks = 40 // as in the kernel

// layout is the file tree as the command will see it: the image and what is mounted over it so far. Paths are resolved in
// it at the time of planning, so that a plan says where a mount goes; when it runs, the kernel resolves them again, and a
// tree that has changed meanwhile cannot lead out of the image.
type layout struct {
	layers []*layer
}

// layer is a mount, or the image at the bottom.
type layer struct {
	at   string // where it is mounted: "/" or a clean absolute path without symbolic links
	tree tree   // what it holds; nil if nothing
	host string // path of what is mounted on the host, if it comes from there
	// made are files to be made in it. A layer with no directory to make them in (fd) can have none: the host's files.
	made  map[string]nodeKind
	fd    fork.FD
	order []entry // what made has, parents first
}

// entry is a file to be made. A repeated one is a directory that the image has, wanted beside it in an overlay only.
type entry struct {
	rel      string
	kind     nodeKind
	repeated bool
}

func (l *layer) lookup(rel string) (nodeKind, string, error) {
	if kind, ok := l.made[rel]; ok {
		return kind, "", nil
	}
	if l.tree == nil {
		if rel == "." {
			return nodeDir, "", nil
		}
		return nodeNone, "", nil
	}
	return l.tree.lookup(rel)
}

func (l *layer) make(e entry) {
	l.made[e.rel] = e.kind
	l.order = append(l.order, e)
}

// add mounts something; later layers hide earlier ones.
func (l *layout) add(m *layer) *layer {
	if m.fd != "" {
		m.made = make(map[string]nodeKind)
	}
	l.layers = append(l.layers, m)
	return m
}

// covering returns the layer that path, which has no symbolic links, is on, and path relative to it.
func (l *layout) covering(name string) (*layer, string) {
	best := l.layers[0]
	for _, m := range l.layers[1:] {
		if len(m.at) >= len(best.at) && (m.at == name || strings.HasPrefix(name, strings.TrimSuffix(m.at, "/")+"/")) {
			best = m
		}
	}
	rel := strings.TrimPrefix(strings.TrimPrefix(name, best.at), "/")
	if rel == "" {
		rel = "."
	}
	return best, rel
}

// resolve follows symbolic links as a process would whose root directory is the layout's. It returns the part of the path
// that exists, what that is, and the names that are missing.
func (l *layout) resolve(name string) (found string, kind nodeKind, missing []string, err error) {
	pending := strings.Split(name, "/")
	cur, kind, links := "/", nodeDir, 0
	for len(pending) > 0 {
		part := pending[0]
		pending = pending[1:]
		if kind != nodeDir { // which has no "." and ".." either, nor a slash behind it
			return "", 0, nil, &fs.PathError{Op: "resolve", Path: cur, Err: unix.ENOTDIR}
		}
		switch part {
		case "", ".":
			continue
		case "..":
			cur = path.Dir(cur)
			continue
		}
		next := path.Join(cur, part)
		m, rel := l.covering(next)
		k, link, err := m.lookup(rel)
		if err != nil {
			return "", 0, nil, err
		}
		switch k {
		case nodeNone:
			return cur, kind, append([]string{part}, pending...), nil
		case nodeLink:
			if links++; links > maxLinks {
				return "", 0, nil, &fs.PathError{Op: "resolve", Path: name, Err: unix.ELOOP}
			}
			if path.IsAbs(link) {
				cur = "/"
			}
			pending = append(strings.Split(link, "/"), pending...)
			continue
		}
		cur, kind = next, k
	}
	return cur, kind, nil, nil
}

// ensure resolves name as the mount point of a directory or file, and makes what is missing where that is possible.
func (l *layout) ensure(name string, want nodeKind) (string, error) {
	found, kind, missing, err := l.resolve(name)
	if err != nil {
		return "", err
	}
	refuse := func(errno error) (string, error) {
		return "", &fs.PathError{Op: "resolve", Path: path.Join(append([]string{found}, missing...)...), Err: errno}
	}
	for i, part := range missing {
		if part == "" || part == "." {
			continue
		}
		if part == ".." {
			return refuse(unix.ENOENT)
		}
		if kind != nodeDir {
			return refuse(unix.ENOTDIR)
		}
		m, _ := l.covering(found)
		if m.fd == "" {
			return refuse(unix.ENOENT)
		}
		if kind = nodeDir; i == len(missing)-1 {
			kind = want
		}
		found = path.Join(found, part)
		m, rel := l.covering(found)
		l.makeParents(m, rel)
		m.make(entry{rel: rel, kind: kind})
	}
	switch {
	case want == nodeDir && kind != nodeDir:
		return refuse(unix.ENOTDIR)
	case want != nodeDir && kind == nodeDir:
		return refuse(unix.EISDIR)
	}
	return found, nil
}

// makeParents repeats directories of the image in the directory that is laid beside it.
func (l *layout) makeParents(m *layer, rel string) {
	if m.tree == nil {
		return
	}
	for i, c := range rel {
		if c != '/' {
			continue
		}
		if _, ok := m.made[rel[:i]]; !ok {
			m.make(entry{rel: rel[:i], kind: nodeDir, repeated: true})
		}
	}
}
