package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const nonBlock = unix.O_NONBLOCK

func hostIdentity(info fs.FileInfo) (hostInode, uint64) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return hostInode{}, 1
	}
	return hostInode{dev: uint64(st.Dev), ino: st.Ino}, uint64(st.Nlink)
}

func hostOwner(e *Entry, info fs.FileInfo) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return
	}
	e.UID, e.GID = st.Uid, st.Gid
	if e.Kind == Char || e.Kind == Block {
		e.Major, e.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	}
}

// hostXattrs returns the extended attributes of p, which is open as f if it is a regular file.
func hostXattrs(root *os.Root, p string, f *os.File) (map[string]string, error) {
	list, get := func(b []byte) (int, error) { return unix.Flistxattr(int(f.Fd()), b) },
		func(name string, b []byte) (int, error) { return unix.Fgetxattr(int(f.Fd()), name, b) }
	if f == nil {
		// A link or a device cannot be opened without touching what it stands for: go by way of its directory.
		dir, err := root.Open(path.Dir(p))
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		there := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), path.Base(p))
		list = func(b []byte) (int, error) { return unix.Llistxattr(there, b) }
		get = func(name string, b []byte) (int, error) { return unix.Lgetxattr(there, name, b) }
	}
	names, err := grow(list)
	if err != nil || names == "" {
		return nil, ignorable("listxattr", p, err)
	}
	all := make(map[string]string)
	for name := range strings.SplitSeq(strings.TrimRight(names, "\x00"), "\x00") {
		value, err := grow(func(b []byte) (int, error) { return get(name, b) })
		if err == nil {
			all[name] = value
		} else if err := ignorable("getxattr", p, err); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// ignorable returns nil for errors that mean that there is nothing for us.
func ignorable(op, p string, err error) error {
	for _, e := range []error{nil, unix.ENOTSUP, unix.EPERM, unix.EACCES, unix.ENODATA, unix.ENOENT} {
		if errors.Is(err, e) {
			return nil
		}
	}
	return &fs.PathError{Op: op, Path: p, Err: err}
}

// grow calls read with a small buffer and then with the largest that Linux can fill.
func grow(read func([]byte) (int, error)) (string, error) {
	for _, size := range []int{512, maxXattrs} {
		b := make([]byte, size)
		n, err := read(b)
		if err == nil {
			return string(b[:n]), nil
		}
		if !errors.Is(err, unix.ERANGE) {
			return "", err
		}
	}
	return "", unix.ERANGE
}
