package squashfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// destFile is an open file or directory of the destination. It is a bare
// descriptor: an [os.File] would cost a system call and several allocations for
// each file, and nothing here ever waits for one to become ready.
type destFile struct{ fd int }

func (f destFile) close() error { return unix.Close(f.fd) }

// again calls f until no signal interrupts it.
func again(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (f destFile) writeAt(p []byte, off int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(f.fd, p, off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

func (f destFile) truncate(size int64) error {
	return again(func() error { return unix.Ftruncate(f.fd, size) })
}

func (f destFile) chown(uid, gid uint32) error {
	return again(func() error { return unix.Fchown(f.fd, int(uid), int(gid)) })
}

func (f destFile) chmod(mode fs.FileMode) error {
	return again(func() error { return unix.Fchmod(f.fd, unixPerm(mode)) })
}

func (f destFile) setXattr(key, value string) error {
	return again(func() error { return unix.Fsetxattr(f.fd, key, []byte(value), 0) })
}

// setTimes is futimens(3): utimensat without a path. An empty path instead
// would need Linux 5.8.
func (f destFile) setTimes(t time.Time) error {
	ts := unixTimes(t)
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(f.fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// destDir is an open directory of the destination. Names given to its methods
// are single elements, and none of them is followed if it is a link, so that
// nothing can lead out of the destination.
type destDir struct {
	destFile
	top  *os.File // whose descriptor it is, or nil
	born *births
}

func openDest(root *os.Root) (*destDir, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	return &destDir{destFile{int(f.Fd())}, f, new(births)}, nil
}

func (d *destDir) close() {
	if d.top != nil {
		_ = d.top.Close()
		return
	}
	_ = d.destFile.close()
}

// mkdir makes a directory, if it does not exist, and opens it.
func (d *destDir) mkdir(name string) (*destDir, error) {
	born := d.born
	switch err := unix.Mkdirat(d.fd, name, 0o700); {
	case errors.Is(err, fs.ErrExist):
		born = new(births) // may have other rules
	case err != nil:
		return nil, err
	}
	fd, err := openat(d.fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &destDir{destFile{fd}, nil, born}, nil
}

// create makes a file that does not exist. The permissions are asked for, but
// what comes of them, and who owns the file, is in the result.
func (d *destDir) create(name string, perm uint32) (destFile, birth, error) {
	fd, err := openat(d.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, perm)
	if err != nil {
		return destFile{-1}, birth{}, err
	}
	f := destFile{fd}
	return f, d.born.of(f, perm), nil
}

func openat(dir int, name string, flags int, perm uint32) (fd int, err error) {
	for {
		fd, err = unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// births is what files get when they are made in a directory, or in those
// that were made below it since. It depends on the umask, default ACLs, setgid
// bits, mount options and the file system, and so it is not foretold but seen:
// the first file of a kind is looked at, and those like it are not.
type births struct {
	mu       sync.Mutex
	seen     bool
	uid, gid uint32
	on, off  uint32 // permission bits that are set, and clear, if asked for
}

func (b *births) of(f destFile, perm uint32) birth {
	b.mu.Lock()
	defer b.mu.Unlock()
	if clearBits := 0o777 &^ perm; !b.seen || perm&^b.on != 0 || clearBits&^b.off != 0 {
		var st unix.Stat_t
		if err := unix.Fstat(f.fd, &st); err != nil {
			return birth{}
		}
		b.seen, b.uid, b.gid = true, st.Uid, st.Gid
		if st.Mode&0o7777 != perm {
			return birth{owner: true, uid: b.uid, gid: b.gid}
		}
		b.on |= perm
		b.off |= clearBits
	}
	return birth{perm: fs.FileMode(perm), mode: true, owner: true, uid: b.uid, gid: b.gid}
}

func (d *destDir) symlink(target, name string) error { return unix.Symlinkat(target, d.fd, name) }

// mknod makes a device, named pipe or socket. dev is as the image has it,
// which is how Linux encodes device numbers.
func (d *destDir) mknod(name string, mode fs.FileMode, dev uint32) error {
	var t uint32
	switch mode.Type() {
	case fs.ModeNamedPipe:
		t, dev = unix.S_IFIFO, 0
	case fs.ModeSocket:
		t, dev = unix.S_IFSOCK, 0
	case fs.ModeDevice:
		t = unix.S_IFBLK
	default:
		t = unix.S_IFCHR
	}
	return unix.Mknodat(d.fd, name, t|0o600, int(dev))
}

func (d *destDir) lchown(name string, uid, gid uint32) error {
	return unix.Fchownat(d.fd, name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW)
}

// chmodEntry must not be called for links: Fchmodat follows them on most kernels.
func (d *destDir) chmodEntry(name string, mode fs.FileMode) error {
	return unix.Fchmodat(d.fd, name, unixPerm(mode), 0)
}

func (d *destDir) lutimes(name string, t time.Time) error {
	ts := unixTimes(t)
	return unix.UtimesNanoAt(d.fd, name, ts[:], unix.AT_SYMLINK_NOFOLLOW)
}

func (d *destDir) lsetxattr(name, key, value string) error {
	return unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", d.fd, name), key, []byte(value), 0)
}

// unixTimes leaves the access time as it is.
func unixTimes(t time.Time) [2]unix.Timespec {
	return [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(t.UnixNano())}
}

func unixPerm(mode fs.FileMode) uint32 { return uint32(storedMode(mode)) }
