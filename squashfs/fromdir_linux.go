package squashfs

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// addAll walks by descriptor: each name is looked up in its directory, which is
// open, and is not followed if it is a link. So nothing leads out, and a file
// takes four system calls beside those that read it. An [os.Root] takes some
// twenty, which is a tenth of all the time that a fast compressor needs.
func (a *dirAdder) addAll(ctx context.Context, root string) error {
	fd, err := openHost(unix.AT_FDCWD, root, unix.O_DIRECTORY)
	if err != nil {
		return &fs.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(fd)
	a.buf = make([]byte, 32<<10)
	return a.addDir(ctx, fd, ".")
}

// openHost opens a file for reading. A device or pipe that somebody has put in
// its place does not make it wait.
func openHost(dir int, name string, flags int) (fd int, err error) {
	err = again(func() error {
		fd, err = unix.Openat(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|flags, 0)
		return err
	})
	return fd, err
}

// hostDirent is an entry of a directory of the host.
type hostDirent struct {
	name string
	typ  uint8 // DT_UNKNOWN if the file system does not say
}

// addDir adds the directory open as fd and what lies in it, by name.
func (a *dirAdder) addDir(ctx context.Context, fd int, p string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: p, Err: err}
	}
	e := hostEntry(p, &st)
	if err := a.addXattrs(&e, xattrTarget{fd: fd}); err != nil {
		return err
	}
	if err := a.w.Add(ctx, e, nil); err != nil {
		return err
	}
	list, err := a.readDir(fd)
	if err != nil {
		return &fs.PathError{Op: "readdir", Path: p, Err: err}
	}
	for _, d := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		sub := d.name
		if p != "." {
			sub = p + "/" + d.name
		}
		if err := a.add(ctx, fd, sub, d); err != nil {
			return err
		}
	}
	return nil
}

// readDir returns the entries of a directory, sorted: what is written depends
// on their order, and that in which a file system has them on its history.
func (a *dirAdder) readDir(fd int) ([]hostDirent, error) {
	var list []hostDirent
	for {
		var n int
		err := again(func() (err error) {
			n, err = unix.Getdents(fd, a.buf)
			return err
		})
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		if list, err = appendDirents(list, a.buf[:n]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, func(x, y hostDirent) int { return cmp.Compare(x.name, y.name) })
	return list, nil
}

// appendDirents reads a list of struct linux_dirent64.
func appendDirents(list []hostDirent, b []byte) ([]hostDirent, error) {
	const (
		lengthAt = 16
		typeAt   = 18
		nameAt   = 19
	)
	for len(b) > nameAt {
		size := int(binary.NativeEndian.Uint16(b[lengthAt:]))
		if size <= nameAt || size > len(b) {
			break
		}
		name, _, _ := strings.Cut(string(b[nameAt:size]), "\x00")
		if name != "." && name != ".." {
			// Kernels check this; all that keeps us inside depends on it.
			if name == "" || strings.IndexByte(name, '/') >= 0 {
				return nil, fmt.Errorf("%w: name %q", fs.ErrInvalid, name)
			}
			list = append(list, hostDirent{name, b[typeAt]})
		}
		b = b[size:]
	}
	return list, nil
}

// add adds the entry d of the directory open as dir.
func (a *dirAdder) add(ctx context.Context, dir int, p string, d hostDirent) error {
	switch d.typ {
	case unix.DT_SOCK:
		return nil
	case unix.DT_DIR, unix.DT_REG:
		return a.addOpen(ctx, dir, p, d)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, d.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "stat", Path: p, Err: err}
	}
	e := hostEntry(p, &st)
	switch e.Mode.Type() {
	case fs.ModeSocket:
		return nil
	case 0, fs.ModeDir:
		return a.addOpen(ctx, dir, p, hostDirent{d.name, uint8(st.Mode & unix.S_IFMT >> 12)})
	case fs.ModeSymlink:
		n, err := unix.Readlinkat(dir, d.name, a.buf)
		if err != nil {
			return &fs.PathError{Op: "readlink", Path: p, Err: err}
		}
		e.Target = string(a.buf[:n])
	}
	if st.Nlink > 1 {
		if added, err := a.addLink(ctx, p, inodeOf(&st)); added {
			return err
		}
	}
	// No descriptor can be had of a link or a device without touching what
	// it stands for: go by way of its directory.
	if err := a.addXattrs(&e, xattrTarget{fd: -1, path: fmt.Sprintf("/proc/self/fd/%d/%s", dir, d.name)}); err != nil {
		return err
	}
	return a.w.Add(ctx, e, nil)
}

// addOpen adds a directory or a regular file.
func (a *dirAdder) addOpen(ctx context.Context, dir int, p string, d hostDirent) error {
	flags := unix.O_NOFOLLOW
	if d.typ == unix.DT_DIR {
		flags |= unix.O_DIRECTORY
	}
	fd, err := openHost(dir, d.name, flags)
	if err != nil {
		return &fs.PathError{Op: "open", Path: p, Err: err}
	}
	defer unix.Close(fd)
	if d.typ == unix.DT_DIR {
		return a.addDir(ctx, fd, p)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: p, Err: err}
	}
	e := hostEntry(p, &st)
	if !e.Mode.IsRegular() {
		return &fs.PathError{Op: "open", Path: p, Err: fs.ErrInvalid}
	}
	if st.Nlink > 1 {
		if added, err := a.addLink(ctx, p, inodeOf(&st)); added {
			return err
		}
	}
	e.Size = st.Size
	if err := a.addXattrs(&e, xattrTarget{fd: fd}); err != nil {
		return err
	}
	return a.w.Add(ctx, e, hostFile(fd))
}

// hostFile reads a regular file.
type hostFile int

// Read implements io.Reader.
func (f hostFile) Read(p []byte) (n int, err error) {
	err = again(func() error {
		n, err = unix.Read(int(f), p)
		return err
	})
	switch {
	case err != nil:
		return 0, &fs.PathError{Op: "read", Err: err}
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// hostEntry returns what a file's status says of it.
func hostEntry(p string, st *unix.Stat_t) Entry {
	e := Entry{Path: p, UID: st.Uid, GID: st.Gid, ModTime: time.Unix(st.Mtim.Unix())}
	var typ fs.FileMode
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		typ = fs.ModeDir
	case unix.S_IFLNK:
		typ = fs.ModeSymlink
	case unix.S_IFIFO:
		typ = fs.ModeNamedPipe
	case unix.S_IFSOCK:
		typ = fs.ModeSocket
	case unix.S_IFBLK:
		typ = fs.ModeDevice
	case unix.S_IFCHR:
		typ = fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFREG:
	default:
		typ = fs.ModeIrregular
	}
	e.Mode = fileMode(0, uint16(st.Mode&0o7777)) | typ
	if typ&fs.ModeDevice != 0 {
		rdev := uint64(st.Rdev)
		e.Rdev = Rdev{Major: unix.Major(rdev), Minor: unix.Minor(rdev)}
	}
	return e
}

func inodeOf(st *unix.Stat_t) hostInode { return hostInode{dev: uint64(st.Dev), ino: st.Ino} }

// addXattrs reads the extended attributes of e. A file system without them is
// as good as a file without.
func (a *dirAdder) addXattrs(e *Entry, t xattrTarget) error {
	names, err := a.sized(t.list)
	if len(names) == 0 && err == nil || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "listxattr", Path: e.Path, Err: err}
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(names), "\x00"), "\x00") {
		if !a.wanted(e, name) {
			continue
		}
		value, err := a.sized(func(buf []byte) (int, error) { return t.value(name, buf) })
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) {
			continue // gone, or not for us
		}
		if err != nil {
			return &fs.PathError{Op: "getxattr", Path: e.Path, Err: err}
		}
		if e.Xattrs == nil {
			e.Xattrs = make(map[string]string)
		}
		e.Xattrs[name] = string(value)
	}
	return nil
}

// sized calls read with a small buffer, since kernels allocate one as large,
// and then with the largest that Linux can fill.
func (a *dirAdder) sized(read func([]byte) (int, error)) ([]byte, error) {
	const small = 512
	n, err := read(a.buf[:small])
	if err == nil {
		return a.buf[:n], nil
	}
	if !errors.Is(err, unix.ERANGE) {
		return nil, err
	}
	large := make([]byte, maxXattrValue)
	if n, err = read(large); err != nil {
		return nil, err
	}
	return large[:n], nil
}

// xattrTarget is a file by descriptor or, if that is negative, by path.
type xattrTarget struct {
	fd   int
	path string
}

func (t xattrTarget) list(buf []byte) (int, error) {
	if t.fd >= 0 {
		return unix.Flistxattr(t.fd, buf)
	}
	return unix.Llistxattr(t.path, buf)
}

func (t xattrTarget) value(name string, buf []byte) (int, error) {
	if t.fd >= 0 {
		return unix.Fgetxattr(t.fd, name, buf)
	}
	return unix.Lgetxattr(t.path, name, buf)
}
