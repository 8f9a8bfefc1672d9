package squashfs

import (
	"io/fs"
	"strings"
	"syscall"
)

// maxLinks is how many symbolic links Linux follows in a path. The number of
// directories is bounded by maxDepth.
const maxLinks = 40

// find returns the inode of an fs.FS path.
func (r *Reader) find(op, name string, follow bool) (*Inode, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	in, err := r.resolve(name, follow)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return in, nil
}

// resolve walks name from the root. Links are followed as in a chroot of the
// image: absolute targets start at its root, and ".." does not leave it.
func (r *Reader) resolve(name string, follow bool) (*Inode, error) {
	stack := make([]*Inode, 1, 8)
	stack[0] = r.root
	rest := name
	for links := 0; rest != ""; {
		var elem string
		elem, rest, _ = strings.Cut(rest, "/")
		dir := stack[len(stack)-1]
		switch elem {
		case "", ".":
			continue
		case "..":
			if len(stack) > 1 {
				stack = stack[:len(stack)-1]
			}
			continue
		}
		in, err := dir.Lookup(elem)
		if err != nil {
			return nil, err
		}
		last := strings.Trim(rest, "/") == ""
		if in.isSymlink() && (!last || follow) {
			if links++; links > maxLinks {
				return nil, &LimitError{What: "symbolic links in a path", Limit: maxLinks}
			}
			if in.target[0] == '/' {
				stack = stack[:1]
			}
			rest = in.target + "/" + rest
			continue
		}
		if !last && !in.IsDir() {
			return nil, syscall.ENOTDIR
		}
		if len(stack) > maxDepth {
			return nil, &LimitError{What: "directories in a path", Limit: maxDepth}
		}
		stack = append(stack, in)
	}
	return stack[len(stack)-1], nil
}
