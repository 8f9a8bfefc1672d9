//go:build !linux

package squashfs

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// destFile is an open file or directory of the destination.
type destFile struct{ *os.File }

func (f destFile) close() error { return f.Close() }

func (f destFile) writeAt(p []byte, off int64) error {
	_, err := f.WriteAt(p, off)
	return err
}

func (f destFile) truncate(size int64) error { return f.Truncate(size) }

func (f destFile) chown(uid, gid uint32) error { return f.Chown(int(uid), int(gid)) }

func (f destFile) chmod(mode fs.FileMode) error { return f.Chmod(mode) }

func (f destFile) setXattr(string, string) error { return errors.ErrUnsupported }

func (f destFile) setTimes(t time.Time) error { return os.Chtimes(f.Name(), time.Time{}, t) }

// destDir is a directory of the destination. Names given to its methods are
// single elements.
type destDir struct {
	destFile
	root *os.Root
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
	return &destDir{destFile{f}, root}, nil
}

func (d *destDir) close() {
	d.Close()
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

// create makes a file that does not exist. Nothing is known of its attributes.
func (d *destDir) create(name string, _ uint32) (destFile, birth, error) {
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	return destFile{f}, birth{}, err
}

func (d *destDir) symlink(target, name string) error { return d.root.Symlink(target, name) }

func (d *destDir) mknod(string, fs.FileMode, uint32) error { return errors.ErrUnsupported }

func (d *destDir) lchown(name string, uid, gid uint32) error {
	return d.root.Lchown(name, int(uid), int(gid))
}

func (d *destDir) chmodEntry(name string, mode fs.FileMode) error { return d.root.Chmod(name, mode) }

func (d *destDir) lutimes(string, time.Time) error { return errors.ErrUnsupported }

func (d *destDir) lsetxattr(string, string, string) error { return errors.ErrUnsupported }
