package squashfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"hpcimg/squashfs/internal/disk"
)

// Entry is a name in the tree of an image to be written, and what it stands
// for.
type Entry struct {
	// Path is separated by slashes and relative to the root, which is ".".
	// A slash or "./" at the start and a slash at the end do not matter;
	// ".." is refused.
	Path string

	// Mode has the type and permissions, setuid, setgid and sticky bits
	// included.
	Mode     fs.FileMode
	UID, GID uint32

	// ModTime is stored in seconds from 1970 to 2106 and clamped to that.
	ModTime time.Time

	// Xattrs are extended attributes by full name. The format has room for
	// the namespaces user, trusted and security.
	Xattrs map[string]string

	// Target is what a symbolic link points at: 1 to 4095 bytes.
	Target string

	// HardLink is the path of another entry, added before or after this
	// one, that is not a directory. If it is set the entry is one more name
	// for that file, and no other field but Path has a meaning.
	HardLink string

	// Rdev is the device of a character or block device.
	Rdev Rdev

	// Size is the size of a regular file, for [Writer.Add].
	Size int64

	// Content and Pack, which stands in the image, have the contents of a
	// regular file, for [Builder.Add]. Without Content the file is empty.
	Content *Content
	Pack    PackID
}

// Rdev is a device number.
type Rdev struct{ Major, Minor uint32 }

// ErrNotDirectory reports that an entry's path leads through something that is
// not a directory.
var ErrNotDirectory = errors.New("not a directory")

// EntryError reports an [Entry] that an image cannot have. Err is or wraps
//
//   - [fs.ErrExist] if the path has been added before,
//   - [fs.ErrNotExist] if the target of a hard link has not been added,
//   - [ErrNotDirectory] if the path leads through a file,
//   - [errors.ErrUnsupported] if the format has no room for it,
//   - a [LimitError] if something is too long or too large,
//   - [fs.ErrInvalid] otherwise.
type EntryError struct {
	Path string
	Err  error
}

// Error implements error.
func (e *EntryError) Error() string {
	return fmt.Sprintf("squashfs: entry %q: %s", e.Path, strings.TrimPrefix(e.Err.Error(), "squashfs: "))
}

// Unwrap returns Err.
func (e *EntryError) Unwrap() error { return e.Err }

// maxDepth bounds the number of components of a path, and with it recursion.
const maxDepth = 4096

// cleanEntryPath returns p in the form of [fs.ValidPath].
func cleanEntryPath(p string) (string, error) {
	clean := strings.TrimLeft(p, "/")
	if strings.IndexByte(clean, 0) >= 0 {
		return "", fmt.Errorf("%w: NUL in path", fs.ErrInvalid)
	}
	if clean == "" {
		clean = "."
	}
	if !fs.ValidPath(clean) || len(clean) > disk.MaxNameLen {
		for part := range strings.SplitSeq(clean, "/") {
			if part == ".." {
				return "", fmt.Errorf(`%w: ".." in path`, fs.ErrInvalid)
			}
			if len(part) > disk.MaxNameLen {
				return "", &LimitError{What: "bytes in a name", Limit: disk.MaxNameLen}
			}
		}
		clean = path.Clean(clean)
	}
	if strings.Count(clean, "/") >= maxDepth {
		return "", &LimitError{What: "components in a path", Limit: maxDepth}
	}
	return clean, nil
}

// storedMode returns the 12 permission bits of m as Unix counts them.
func storedMode(m fs.FileMode) uint16 {
	s := uint16(m.Perm())
	if m&fs.ModeSetuid != 0 {
		s |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		s |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		s |= 0o1000
	}
	return s
}

// storedType returns the basic inode type for m.
func storedType(m fs.FileMode) (uint16, error) {
	switch m.Type() {
	case 0:
		return disk.TypeFile, nil
	case fs.ModeDir:
		return disk.TypeDir, nil
	case fs.ModeSymlink:
		return disk.TypeSymlink, nil
	case fs.ModeDevice:
		return disk.TypeBlock, nil
	case fs.ModeDevice | fs.ModeCharDevice:
		return disk.TypeChar, nil
	case fs.ModeNamedPipe:
		return disk.TypeFIFO, nil
	case fs.ModeSocket:
		return disk.TypeSocket, nil
	}
	return 0, fmt.Errorf("%w: file type %v", errors.ErrUnsupported, m.Type())
}

// storedTime clamps t to what 32 bits can say.
func storedTime(t time.Time) uint32 {
	return uint32(min(max(t.Unix(), 0), 1<<32-1))
}
