package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Detached has the kernel make a mount of the squashfs image in f, at no place yet: read-only, nosuid, nodev. It is for root, and
// nothing has checked the image. The file may be closed afterwards. Where the kernel refuses the image, the error has the
// reason that it gives, which others find in its log. Linux 5.2 or later; before that the error is errors.ErrUnsupported.
func Detached(ctx context.Context, f *os.File, o *Options) (*DetachedMount, error) {
	d, err := Loop(ctx, f, o)
	if err != nil {
		return nil, err
	}
	defer d.Close() // the mount keeps it
	return detached(d, f.Name())
}

// MoveTo mounts it on the directory target. A symbolic link is followed.
func (m *DetachedMount) MoveTo(target string) error {
	const flags = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_SYMLINKS | unix.MOVE_MOUNT_T_AUTOMOUNTS
	if err := unix.MoveMount(int(m.f.Fd()), "", unix.AT_FDCWD, target, flags); err != nil {
		return &fs.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return nil
}

func detached(d *LoopDevice, image string) (*DetachedMount, error) {
	fsfd, err := unix.Fsopen("squashfs", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // of an old kernel, or a filter that does not know the call
		return nil, fmt.Errorf("%w: %w", os.NewSyscallError("fsopen", err), errors.ErrUnsupported)
	}
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fsfd)
	fail := func(op string, err error) error {
		if said := contextLog(fsfd); said != "" {
			err = fmt.Errorf("%s: %w", said, err)
		}
		return &fs.PathError{Op: op, Path: image, Err: err}
	}
	if err = unix.FsconfigSetString(fsfd, "source", d.Path()); err == nil {
		if err = unix.FsconfigSetFlag(fsfd, "ro"); err == nil {
			err = unix.FsconfigCreate(fsfd)
		}
	}
	if err != nil {
		return nil, fail("fsconfig", err)
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return nil, fail("fsmount", err)
	}
	return &DetachedMount{f: os.NewFile(uintptr(fd), image)}, nil
}

// contextLog is what the kernel has to say about a file system: a message with each read, of which a letter tells the kind.
func contextLog(fsfd int) string {
	var messages []string
	buf := make([]byte, 1024)
	for range 16 {
		n, err := unix.Read(fsfd, buf)
		if err != nil || n <= 0 {
			break
		}
		_, text, _ := strings.Cut(strings.TrimSpace(string(buf[:n])), " ")
		messages = append(messages, text)
	}
	return strings.Join(messages, "; ")
}
