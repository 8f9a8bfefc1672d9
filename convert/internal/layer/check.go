package layer

import (
	"fmt"
	"io/fs"
)

// Check reports whether e is an entry as Tar makes them. Entries that have been stored somewhere are checked before they are
// used.
func (e *Entry) Check() error {
	p, err := clean(e.Path)
	if err != nil {
		return err
	}
	if p != e.Path || e.Kind > Opaque || p == "." && e.Kind != Dir && e.Kind != Opaque {
		return fmt.Errorf("%w: path %s of kind %d", ErrUnsafePath, quote(e.Path), e.Kind)
	}
	switch e.Kind {
	case HardLink:
		link, err := clean(e.Link)
		if err != nil || link != e.Link {
			return fmt.Errorf("%w: link target %s", ErrUnsafePath, quote(e.Link))
		}
	case Symlink:
		if err := checkTarget(e.Link); err != nil {
			return err
		}
	default:
		if e.Link != "" {
			return malformedf("link target of what is no link")
		}
	}
	if e.Size < 0 || e.Size > 0 && e.Kind != File || e.Major > maxMajor || e.Minor > maxMinor || e.UID > maxID || e.GID > maxID {
		return malformedf("size %d, device %d:%d, owner %d:%d", e.Size, e.Major, e.Minor, e.UID, e.GID)
	}
	if e.Mode&^(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
		return malformedf("mode %v", e.Mode)
	}
	size := 0
	for name, value := range e.Xattrs {
		if size += len(name) + len(value); len(name) > MaxName || size > maxXattrs || !KeepXattr(e.Kind, name) {
			return malformedf("extended attribute %s", quote(name))
		}
	}
	return nil
}
