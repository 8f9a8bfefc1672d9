package testtree

import (
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func mknod(name string, e Entry) error {
	mode := uint32(0o600)
	switch {
	case e.Mode&fs.ModeCharDevice != 0:
		mode |= unix.S_IFCHR
	case e.Mode&fs.ModeDevice != 0:
		mode |= unix.S_IFBLK
	case e.Mode&fs.ModeNamedPipe != 0:
		mode |= unix.S_IFIFO
	default:
		return fmt.Errorf("%s: no way to make %v", e.Path, e.Mode)
	}
	if err := unix.Mknod(name, mode, int(unix.Mkdev(e.Major, e.Minor))); err != nil {
		return &fs.PathError{Op: "mknod", Path: name, Err: err}
	}
	return nil
}

// stat fills in what io/fs has no name for.
func (n *Node) stat(info fs.FileInfo) {
	st := info.Sys().(*syscall.Stat_t)
	n.UID, n.GID = st.Uid, st.Gid
	if !n.Mode.IsDir() {
		n.Links = uint32(st.Nlink)
	}
	if n.Mode&fs.ModeDevice != 0 {
		n.Major, n.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
}

// inode is the identity of the file behind a path.
func inode(info fs.FileInfo) any {
	st := info.Sys().(*syscall.Stat_t)
	return [2]uint64{st.Dev, st.Ino}
}

func setModTime(name string, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return &fs.PathError{Op: "utimensat", Path: name, Err: err}
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimensat", Path: name, Err: err}
	}
	return nil
}

func setXattr(name, attr, value string) error {
	if err := unix.Lsetxattr(name, attr, []byte(value), 0); err != nil {
		return &fs.PathError{Op: "lsetxattr " + attr, Path: name, Err: err}
	}
	return nil
}

func readXattrs(name string) (map[string]string, error) {
	list, err := sized(func(buf []byte) (int, error) { return unix.Llistxattr(name, buf) })
	if err == unix.ENOTSUP {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "llistxattr", Path: name, Err: err}
	}
	xattrs := make(map[string]string)
	for attr := range strings.SplitSeq(strings.TrimSuffix(list, "\x00"), "\x00") {
		if attr == "" {
			continue
		}
		value, err := sized(func(buf []byte) (int, error) { return unix.Lgetxattr(name, attr, buf) })
		if err != nil {
			return nil, &fs.PathError{Op: "lgetxattr " + attr, Path: name, Err: err}
		}
		xattrs[attr] = value
	}
	return xattrs, nil
}

// sized calls a system call of the xattr family twice: for the size, then for the value.
func sized(call func([]byte) (int, error)) (string, error) {
	size, err := call(nil)
	if err != nil || size == 0 {
		return "", err
	}
	buf := make([]byte, size)
	size, err = call(buf)
	if err != nil {
		return "", err
	}
	return string(buf[:size]), nil
}
