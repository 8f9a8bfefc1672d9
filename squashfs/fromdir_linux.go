package squashfs

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

// describeHost fills in what only a Linux file has, and returns its identity
// and number of names.
func describeHost(e *Entry, info fs.FileInfo) (ino hostInode, links uint64) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return hostInode{}, 1
	}
	e.UID, e.GID = st.Uid, st.Gid
	if e.Mode&fs.ModeDevice != 0 {
		rdev := uint64(st.Rdev)
		e.Rdev = Rdev{Major: unix.Major(rdev), Minor: unix.Minor(rdev)}
	}
	return hostInode{dev: uint64(st.Dev), ino: st.Ino}, uint64(st.Nlink)
}

// hostXattrs returns the extended attributes of the file at p in root, which
// is open as f if it is a regular file. A file system without them is as good
// as a file without.
func hostXattrs(root *os.Root, p string, f *os.File) (map[string]string, error) {
	t := xattrTarget{fd: -1}
	if f != nil {
		t.fd = int(f.Fd())
	} else {
		// No descriptor can be had of a link or a device without
		// touching what it stands for: go by way of its directory.
		dir, err := root.Open(path.Dir(p))
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		t.path = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), path.Base(p))
	}
	names, err := t.list()
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) || len(names) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: p, Err: err}
	}
	all := make(map[string]string)
	for name := range strings.SplitSeq(strings.TrimRight(names, "\x00"), "\x00") {
		value, err := t.value(name)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) {
			continue // gone, or not for us
		}
		if err != nil {
			return nil, &fs.PathError{Op: "getxattr", Path: p, Err: err}
		}
		all[name] = value
	}
	return all, nil
}

// xattrTarget is a file by descriptor or, if that is negative, by path.
type xattrTarget struct {
	fd   int
	path string
}

func (t xattrTarget) list() (string, error) {
	return growRead(func(buf []byte) (int, error) {
		if t.fd >= 0 {
			return unix.Flistxattr(t.fd, buf)
		}
		return unix.Llistxattr(t.path, buf)
	})
}

func (t xattrTarget) value(name string) (string, error) {
	return growRead(func(buf []byte) (int, error) {
		if t.fd >= 0 {
			return unix.Fgetxattr(t.fd, name, buf)
		}
		return unix.Lgetxattr(t.path, name, buf)
	})
}

// growRead calls read with a small buffer and then with the largest that Linux
// can fill.
func growRead(read func([]byte) (int, error)) (string, error) {
	var small [512]byte
	n, err := read(small[:])
	if err == nil {
		return string(small[:n]), nil
	}
	if !errors.Is(err, unix.ERANGE) {
		return "", err
	}
	large := make([]byte, maxXattrValue)
	if n, err = read(large); err != nil {
		return "", err
	}
	return string(large[:n]), nil
}
