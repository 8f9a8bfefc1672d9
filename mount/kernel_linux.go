package mount

import (
	"context"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

func kernel(ctx context.Context, f *os.File, target string, o *Options) error {
	d, err := Loop(ctx, f, o)
	if err != nil {
		return err
	}
	defer d.Close() // the mount keeps it
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount(d.Path(), target, "squashfs", flags, ""); err != nil {
		return &fs.PathError{Op: "mount", Path: target, Err: err}
	}
	return nil
}

// Unmount removes the mount at target. A symbolic link is not followed. Files that are open in it make it fail with EBUSY.
func Unmount(target string) error {
	if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "umount", Path: target, Err: err}
	}
	return nil
}
