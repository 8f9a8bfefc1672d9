package squashfs

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"syscall"

	"hpcimg/squashfs/internal/disk"
)

// refused reports whether err says that the process may not, or the file
// system cannot, set an attribute.
func refused(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) ||
		errors.Is(err, syscall.EINVAL)
}

// refusedXattr is refused for extended attributes, which file systems bound in
// their own ways.
func refusedXattr(err error) bool {
	return refused(err) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.E2BIG) ||
		errors.Is(err, syscall.ERANGE)
}

// birth is what is known of a file that has just been made.
type birth struct {
	mode     bool // perm is known
	perm     fs.FileMode
	owner    bool // uid and gid are known
	uid, gid uint32
}

// birthPerm returns the permissions with which in is made as a file. It is
// best to be made with those that it will have. But until its owner is right,
// nobody but ourselves must be able to change it, and we must be able to set
// its extended attributes.
func (x *extractor) birthPerm(in *Inode) uint32 {
	m := uint32(in.d.Mode)
	if m&^0o755 != 0 || m&0o600 != 0o600 || in.d.Xattr != disk.NoXattr {
		return 0o600
	}
	return m
}

// setAttrs gives an open file or directory the attributes of in, as far as it
// does not have them from birth. The order matters: a change of owner clears
// setuid bits and capabilities, and a mode without write permission keeps us
// from setting xattrs.
func (x *extractor) setAttrs(f destFile, b birth, p place, in *Inode) error {
	mode := in.Mode()
	if !x.o.NoOwner {
		if !b.owner || b.uid != in.uid || b.gid != in.gid {
			if err := f.chown(in.uid, in.gid); err != nil {
				if !refused(err) {
					return err
				}
				x.skip(p, SkippedOwner, err)
				mode = x.dropSetID(p, mode, err)
			}
		}
	} else if !ownedBy(in) {
		mode &^= fs.ModeSetuid | fs.ModeSetgid
	}
	if err := x.setXattrs(p, in, f.setXattr); err != nil {
		return err
	}
	if !b.mode || b.perm != mode&^fs.ModeType {
		if err := f.chmod(mode); err != nil {
			if !refused(err) {
				return err
			}
			x.skip(p, SkippedMode, err)
		}
	}
	if err := f.setTimes(in.ModTime()); err != nil {
		if !refused(err) {
			return err
		}
		x.skip(p, SkippedTime, err)
	}
	return nil
}

// dropSetID takes setuid and setgid from a file that does not get its owner:
// they would be the rights of another.
func (x *extractor) dropSetID(p place, mode fs.FileMode, err error) fs.FileMode {
	const setID = fs.ModeSetuid | fs.ModeSetgid
	if mode&setID != 0 {
		x.skip(p, SkippedMode, err)
	}
	return mode &^ setID
}

// setLinkAttrs gives a symbolic link or special file its attributes. They
// cannot be opened, so this goes through the directory.
func (x *extractor) setLinkAttrs(p place, in *Inode) error {
	d := p.dir.dest
	mode := in.Mode()
	if !x.o.NoOwner {
		if err := d.lchown(p.name, in.uid, in.gid); err != nil {
			if !refused(err) {
				return err
			}
			x.skip(p, SkippedOwner, err)
			mode = x.dropSetID(p, mode, err)
		}
	}
	err := x.setXattrs(p, in, func(k, v string) error { return d.lsetxattr(p.name, k, v) })
	if err != nil {
		return err
	}
	if !in.isSymlink() {
		if err := d.chmodEntry(p.name, mode); err != nil {
			if !refused(err) {
				return err
			}
			x.skip(p, SkippedMode, err)
		}
	}
	if err := d.lutimes(p.name, in.ModTime()); err != nil {
		if !refused(err) {
			return err
		}
		x.skip(p, SkippedTime, err)
	}
	return nil
}

func (x *extractor) setXattrs(p place, in *Inode, set func(k, v string) error) error {
	if x.o.NoXattrs || in.d.Xattr == disk.NoXattr {
		return nil
	}
	attrs, err := in.Xattrs()
	if err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(attrs)) {
		if err := set(k, attrs[k]); err != nil {
			if !refusedXattr(err) {
				return err
			}
			x.skip(p, SkippedXattr, &fs.PathError{Op: "setxattr", Path: k, Err: err})
		}
	}
	return nil
}

// ownedBy reports whether in belongs to the user of this process.
func ownedBy(in *Inode) bool {
	return int64(in.uid) == int64(os.Geteuid()) && int64(in.gid) == int64(os.Getegid())
}
