package squashfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// destDir is an open directory of the destination. Names given to its methods
// are single elements, and none of them is followed if it is a link, so that
// nothing can lead out of the destination.
type destDir struct{ f *os.File }

func openDest(root *os.Root) (*destDir, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	return &destDir{f}, nil
}

func (d *destDir) fd() int        { return int(d.f.Fd()) }
func (d *destDir) file() *os.File { return d.f }
func (d *destDir) close()         { d.f.Close() }

// mkdir makes a directory, if it does not exist, and opens it.
func (d *destDir) mkdir(name string) (*destDir, error) {
	err := unix.Mkdirat(d.fd(), name, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	fd, err := openat(d.fd(), name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return &destDir{os.NewFile(uintptr(fd), name)}, nil
}

// create makes a file that does not exist.
func (d *destDir) create(name string) (*os.File, error) {
	fd, err := openat(d.fd(), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func openat(dir int, name string, flags int) (fd int, err error) {
	for {
		fd, err = unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

func (d *destDir) symlink(target, name string) error { return unix.Symlinkat(target, d.fd(), name) }

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
	return unix.Mknodat(d.fd(), name, t|0o600, int(dev))
}

func (d *destDir) lchown(name string, uid, gid uint32) error {
	return unix.Fchownat(d.fd(), name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW)
}

// chmod must not be called for links: Fchmodat follows them on most kernels.
func (d *destDir) chmod(name string, mode fs.FileMode) error {
	return unix.Fchmodat(d.fd(), name, unixPerm(mode), 0)
}

func (d *destDir) lutimes(name string, t time.Time) error {
	ts := unixTimes(t)
	return unix.UtimesNanoAt(d.fd(), name, ts[:], unix.AT_SYMLINK_NOFOLLOW)
}

func (d *destDir) lsetxattr(name, key, value string) error {
	return unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", d.fd(), name), key, []byte(value), 0)
}

func setOwner(f *os.File, uid, gid uint32) error {
	return unix.Fchown(int(f.Fd()), int(uid), int(gid))
}

func setXattr(f *os.File, key, value string) error {
	return unix.Fsetxattr(int(f.Fd()), key, []byte(value), 0)
}

// setTimes is futimens(3): utimensat without a path. An empty path instead
// would need Linux 5.8.
func setTimes(f *os.File, t time.Time) error {
	ts := unixTimes(t)
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, f.Fd(), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// unixTimes leaves the access time as it is.
func unixTimes(t time.Time) [2]unix.Timespec {
	return [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(t.UnixNano())}
}

func unixPerm(mode fs.FileMode) uint32 {
	m := uint32(mode.Perm())
	if mode&fs.ModeSetuid != 0 {
		m |= unix.S_ISUID
	}
	if mode&fs.ModeSetgid != 0 {
		m |= unix.S_ISGID
	}
	if mode&fs.ModeSticky != 0 {
		m |= unix.S_ISVTX
	}
	return m
}
