package layer

import "io/fs"

// Kind is what an entry asks for.
type Kind uint8

// The kinds of entries.
const (
	File Kind = iota
	Dir
	Symlink
	HardLink
	Char
	Block
	FIFO
	Whiteout // hides Path in the layers below
	Opaque   // hides what the layers below have in the directory Path
)

// Entry is what a layer says about a path.
type Entry struct {
	// Path is clean and relative; "." is the root. Its directories may be symbolic links of the layers below.
	Path string
	// Link is the target of a symbolic link as it is, or the clean path of the file to which a hard link is a further name.
	Link string
	// Xattrs are the extended attributes that are kept.
	Xattrs map[string]string
	// Size of a regular file.
	Size int64
	// Mode has the permission, setuid, setgid and sticky bits, without the type.
	Mode     fs.FileMode
	UID, GID uint32
	// ModTime is in seconds since 1970.
	ModTime      uint32
	Major, Minor uint32
	Kind         Kind
}

// FileMode returns the mode with the type.
func (e *Entry) FileMode() fs.FileMode { return e.Mode | e.Kind.fileType() }

func (k Kind) fileType() fs.FileMode {
	switch k {
	case Dir:
		return fs.ModeDir
	case Symlink:
		return fs.ModeSymlink
	case Char:
		return fs.ModeDevice | fs.ModeCharDevice
	case Block:
		return fs.ModeDevice
	case FIFO:
		return fs.ModeNamedPipe
	default:
		return 0
	}
}

// Whites reports whether the entry stands for no file, but hides some.
func (k Kind) Whites() bool { return k == Whiteout || k == Opaque }
