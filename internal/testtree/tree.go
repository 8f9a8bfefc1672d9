package testtree

import (
	"io/fs"
	"path"
	"strings"
	"time"
)

// DefaultTime is the modification time of an entry without the option [MTime], in seconds since 1970.
const DefaultTime int64 = 1_700_000_000

// Tree is a list of entries, in the order in which a tar stream has them.
type Tree []Entry

// Entry is one entry of a tree. Use the constructors.
type Entry struct {
	Path     string
	Mode     fs.FileMode // with the type
	UID, GID int
	MTime    int64             // seconds since 1970
	Data     []byte            // regular files
	Target   string            // symlinks
	HardLink string            // path of the entry that this one is a name for
	Major    uint32            // devices
	Minor    uint32            // devices
	Xattrs   map[string]string // by full name, as in "user.comment"
}

// Option changes an entry.
type Option func(*Entry)

// Owner sets uid and gid.
func Owner(uid, gid int) Option { return func(e *Entry) { e.UID, e.GID = uid, gid } }

// MTime sets the modification time in seconds since 1970.
func MTime(sec int64) Option { return func(e *Entry) { e.MTime = sec } }

// Xattr adds an extended attribute under its full name.
func Xattr(name, value string) Option {
	return func(e *Entry) {
		if e.Xattrs == nil {
			e.Xattrs = make(map[string]string)
		}
		e.Xattrs[name] = value
	}
}

// Dir is a directory. The path "." is the root of the tree.
func Dir(path string, mode fs.FileMode, opts ...Option) Entry {
	return newEntry(path, fs.ModeDir, mode, opts)
}

// File is a regular file.
func File[B ~string | ~[]byte](path string, mode fs.FileMode, data B, opts ...Option) Entry {
	e := newEntry(path, 0, mode, opts)
	e.Data = []byte(data)
	return e
}

// Symlink is a symbolic link.
func Symlink(path, target string, opts ...Option) Entry {
	e := newEntry(path, fs.ModeSymlink, 0o777, opts)
	e.Target = target
	return e
}

// Hardlink is another name of the entry at the path target. It has no attributes of its own.
func Hardlink(path, target string) Entry {
	e := newEntry(path, 0, 0, nil)
	e.HardLink = target
	return e
}

// Char is a character device.
func Char(path string, mode fs.FileMode, major, minor uint32, opts ...Option) Entry {
	e := newEntry(path, fs.ModeDevice|fs.ModeCharDevice, mode, opts)
	e.Major, e.Minor = major, minor
	return e
}

// Block is a block device.
func Block(path string, mode fs.FileMode, major, minor uint32, opts ...Option) Entry {
	e := newEntry(path, fs.ModeDevice, mode, opts)
	e.Major, e.Minor = major, minor
	return e
}

// FIFO is a named pipe.
func FIFO(path string, mode fs.FileMode, opts ...Option) Entry {
	return newEntry(path, fs.ModeNamedPipe, mode, opts)
}

// Whiteout is the file by which an OCI layer hides the given path of the layers below.
func Whiteout(hidden string) Entry {
	dir, name := path.Split(hidden)
	return File(dir+".wh."+name, 0, "")
}

// Opaque is the file by which an OCI layer hides all that the layers below have in a directory.
func Opaque(dir string) Entry { return File(path.Join(dir, ".wh..wh..opq"), 0, "") }

func newEntry(path string, typ, mode fs.FileMode, opts []Option) Entry {
	e := Entry{Path: path, Mode: typ | fileMode(mode), MTime: DefaultTime}
	for _, opt := range opts {
		opt(&e)
	}
	return e
}

// fileMode turns the bits of chmod(1) into those of io/fs. Bits of io/fs pass through.
func fileMode(mode fs.FileMode) fs.FileMode {
	out := mode &^ 0o7000
	if mode&0o4000 != 0 {
		out |= fs.ModeSetuid
	}
	if mode&0o2000 != 0 {
		out |= fs.ModeSetgid
	}
	if mode&0o1000 != 0 {
		out |= fs.ModeSticky
	}
	return out
}

// unixMode is the reverse of fileMode, without the type.
func unixMode(mode fs.FileMode) uint32 {
	out := uint32(mode.Perm())
	if mode&fs.ModeSetuid != 0 {
		out |= 0o4000
	}
	if mode&fs.ModeSetgid != 0 {
		out |= 0o2000
	}
	if mode&fs.ModeSticky != 0 {
		out |= 0o1000
	}
	return out
}

func (e Entry) modTime() time.Time { return time.Unix(e.MTime, 0) }

// Listing returns what one should find where the tree has been written: the last entry of a path counts, a parent that the
// tree lacks is a directory of any attributes, and whiteouts are files like any other.
func (t Tree) Listing() Listing {
	l := make(Listing, len(t))
	links := make(map[string]string)
	for _, e := range t {
		name := clean(e.Path)
		delete(links, name)
		if e.HardLink != "" {
			links[name] = clean(e.HardLink)
		}
		l[name] = e.node()
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := l[dir]; ok {
				break
			}
			l[dir] = Node{Mode: fs.ModeDir | 0o755, Implied: true}
		}
	}
	ids := make(map[string]any, len(l))
	for name := range l {
		ids[name] = origin(links, name)
		l[name] = l[origin(links, name)]
	}
	l.group(ids)
	names := make(map[string]uint32)
	for _, n := range l {
		names[n.Group]++
	}
	for name, n := range l {
		if n.Group != "" {
			n.Links = names[n.Group]
			l[name] = n
		}
	}
	return l
}

// origin follows hard links to the entry that has the attributes.
func origin(links map[string]string, name string) string {
	for range len(links) {
		target, ok := links[name]
		if !ok {
			break
		}
		name = target
	}
	return name
}

func (e Entry) node() Node {
	n := Node{
		Mode: e.Mode, UID: uint32(e.UID), GID: uint32(e.GID), ModTime: e.MTime, Target: e.Target,
		Major: e.Major, Minor: e.Minor, Xattrs: FormatXattrs(e.Xattrs),
	}
	if e.Mode.IsRegular() {
		n.Size, n.SHA256 = int64(len(e.Data)), sum(e.Data)
	}
	if !e.Mode.IsDir() {
		n.Links = 1
	}
	return n
}

func clean(name string) string { return path.Clean(strings.Trim(name, "/")) }
