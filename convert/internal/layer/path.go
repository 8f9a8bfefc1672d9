package layer

import (
	"fmt"
	"path"
	"strings"
)

const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh."
	opaqueName     = ".wh..wh..opq"
)

// clean returns the path of name inside the root, as a process in a chroot would reach it: absolute and relative are the
// same, and ".." at the root stays there.
func clean(name string) (string, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("%w: NUL byte", ErrUnsafePath)
	}
	if len(name) > MaxPath {
		return "", &LimitError{What: "bytes in a path", Limit: MaxPath}
	}
	p := path.Clean("/" + name)[1:]
	if p == "" {
		return ".", nil
	}
	for part := range strings.SplitSeq(p, "/") {
		if len(part) > MaxName {
			return "", &LimitError{What: "bytes in a name", Limit: MaxName}
		}
	}
	return p, nil
}

// whiteout tells what p, a clean path, is in the language of layers: a plain path (File), a Whiteout, or an Opaque, with the
// path that it is about. ignored is true for the notes that AUFS kept beside the files of a layer.
func whiteout(p string) (target string, kind Kind, ignored bool, err error) {
	dir, base := path.Split(p)
	if !strings.Contains(p, whiteoutPrefix) {
		return p, File, false, nil
	}
	if base == opaqueName {
		return path.Clean(dir), Opaque, false, nil
	}
	for part := range strings.SplitSeq(p, "/") {
		if strings.HasPrefix(part, metaPrefix) {
			return p, File, true, nil
		}
	}
	hidden, ok := strings.CutPrefix(base, whiteoutPrefix)
	switch {
	case !ok:
		return p, File, false, nil
	case hidden == "" || hidden == "." || hidden == "..":
		return "", 0, false, fmt.Errorf("%w: it would hide %q", ErrWhiteout, hidden)
	}
	return dir + hidden, Whiteout, false, nil
}
