package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// kernel returns what there is to be said of how it was done, if that was not the usual way.
func kernel(ctx context.Context, f *os.File, target string, o *Options) (note string, err error) {
	d, err := Loop(ctx, f, o)
	if err != nil {
		return "", err
	}
	defer d.Close() // the mount keeps it
	m, err := detached(d, f.Name())
	if err == nil {
		err = errors.Join(m.MoveTo(target), m.Close())
	}
	switch {
	case err == nil:
		return "", nil
	case !errors.Is(err, errors.ErrUnsupported):
		if path, ok := errors.AsType[*fs.PathError](err); ok { // whichever call it was of those that are a mount together
			err = &fs.PathError{Op: "mount", Path: target, Err: path.Err}
		}
		return "", err
	}
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	if mountErr := unix.Mount(d.Path(), target, "squashfs", flags, ""); mountErr != nil {
		return "", &fs.PathError{Op: "mount", Path: target, Err: mountErr}
	}
	return "by mount(2), as " + err.Error(), nil
}

// Unmount removes the mount at target. A symbolic link is not followed. Files that are open in it make it fail with EBUSY,
// unless it is a FUSE mount whose server is dead: nobody can use that, and it is removed in any case.
//
// An ordinary user's FUSE mount is removed by fusermount3.
func Unmount(target string) error {
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) && dead(target) {
		err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if errors.Is(err, unix.EPERM) && !mountPoint(target) {
		err = unix.EINVAL // as root is told
	}
	if errors.Is(err, unix.EPERM) {
		if helperErr := helperUnmount("fusermount3", target, dead(target)); helperErr == nil {
			return nil
		} else if !errors.Is(helperErr, exec.ErrNotFound) {
			return &fs.PathError{Op: "umount", Path: target, Err: helperErr}
		}
	}
	if err != nil {
		return &fs.PathError{Op: "umount", Path: target, Err: err}
	}
	return nil
}

// mountPoint reports whether something may be mounted at target: kernels before 5.8 do not say.
func mountPoint(target string) bool {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, target, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st); err != nil {
		return true
	}
	return st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// dead reports whether a FUSE mount has lost its server.
func dead(target string) bool {
	var st unix.Statfs_t
	err := unix.Statfs(target, &st)
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNABORTED)
}

func helperUnmount(name, target string, lazy bool) error {
	program, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	args := []string{"-u", "--", target}
	if lazy {
		args = append([]string{"-z"}, args...)
	}
	cmd := exec.Command(program, args...)
	cmd.Env = []string{}
	cmd.Stderr = &limitedWriter{w: &text, n: 4096}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(text.String()))
	}
	return nil
}
