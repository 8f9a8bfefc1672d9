//go:build !linux

package squashfs

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// destDir is a directory of the destination. Names given to its methods are
// single elements.
type destDir struct {
	root *os.Root
	f    *os.File
}

func openDest(root *os.Root) (*destDir, error) {
	sub, err := root.OpenRoot(".")
	if err != nil {
		return nil, err
	}
	return newDest(sub)
}

func newDest(root *os.Root) (*destDir, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &destDir{root, f}, nil
}

func (d *destDir) file() *os.File { return d.f }

func (d *destDir) close() {
	d.f.Close()
	d.root.Close()
}

// mkdir makes a directory, if it does not exist, and opens it.
func (d *destDir) mkdir(name string) (*destDir, error) {
	if err := d.root.Mkdir(name, 0o700); err != nil {
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		fi, statErr := d.root.Lstat(name)
		if statErr != nil {
			return nil, statErr
		}
		if !fi.IsDir() {
			return nil, err
		}
	}
	sub, err := d.root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return newDest(sub)
}

// create makes a file that does not exist.
func (d *destDir) create(name string) (*os.File, error) {
	return d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

func (d *destDir) symlink(target, name string) error { return d.root.Symlink(target, name) }

func (d *destDir) mknod(string, fs.FileMode, uint32) error { return errors.ErrUnsupported }

func (d *destDir) lchown(name string, uid, gid uint32) error {
	return d.root.Lchown(name, int(uid), int(gid))
}

func (d *destDir) chmod(name string, mode fs.FileMode) error { return d.root.Chmod(name, mode) }

func (d *destDir) lutimes(string, time.Time) error { return errors.ErrUnsupported }

func (d *destDir) lsetxattr(string, string, string) error { return errors.ErrUnsupported }

func setOwner(f *os.File, uid, gid uint32) error { return f.Chown(int(uid), int(gid)) }

func setXattr(*os.File, string, string) error { return errors.ErrUnsupported }

func setTimes(f *os.File, t time.Time) error { return os.Chtimes(f.Name(), time.Time{}, t) }
