package atomicfile

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	defaultMode fs.FileMode = 0o644

	// Most file systems allow names of 255 bytes; ours is the prefix of the real name plus 1+6+16 bytes.
	maxNamePrefix = 200

	createAttempts = 16
)

// Options says how a file is published. A nil *Options and the zero value mean the same.
type Options struct {
	// Mode is the exact permission of the published file, whatever the umask says. Zero means 0644.
	Mode fs.FileMode
	// NoReplace makes Create and Commit fail with fs.ErrExist when the destination exists.
	NoReplace bool
}

// File is a file being written. Its embedded *os.File is open for reading and writing under the temporary name.
type File struct {
	*os.File
	path      string
	mode      fs.FileMode
	noReplace bool
	done      bool
}

// Create opens a temporary file that Commit publishes as path.
func Create(path string, opts *Options) (*File, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.Mode == 0 {
		o.Mode = defaultMode
	}
	if err := checkDestination(path, o.NoReplace); err != nil {
		return nil, err
	}
	dir, name := filepath.Split(path)
	if name == "" || name == "." || name == ".." {
		return nil, &fs.PathError{Op: "create", Path: path, Err: fs.ErrInvalid}
	}
	if len(name) > maxNamePrefix {
		name = name[:maxNamePrefix]
	}
	for range createAttempts {
		temp := filepath.Join(dir, "."+name+".part-"+randomSuffix())
		f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return &File{File: f, path: path, mode: o.Mode, noReplace: o.NoReplace}, nil
	}
	return nil, &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
}

func randomSuffix() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// checkDestination finds early what Commit would refuse, before the caller spends minutes on the contents.
func checkDestination(path string, noReplace bool) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case noReplace:
		return &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	case !info.Mode().IsRegular() && info.Mode()&fs.ModeSymlink == 0:
		return &fs.PathError{Op: "create", Path: path, Err: errors.New("exists and is not a regular file")}
	}
	return nil
}

// Commit sets the mode, syncs, closes and publishes the file. After an error nothing is published and the temporary file is
// gone; the one exception is an error of the final directory sync, which wraps the name of the directory: the file is there by
// then, but may not survive a power cut.
func (f *File) Commit() error {
	if f.done {
		return &fs.PathError{Op: "commit", Path: f.path, Err: fs.ErrClosed}
	}
	err := errors.Join(f.Chmod(f.mode), f.Sync())
	f.done = true
	err = errors.Join(err, f.File.Close())
	if err == nil {
		err = f.publish()
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	if err := syncDir(filepath.Dir(f.path)); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

func (f *File) publish() error {
	if !f.noReplace {
		return os.Rename(f.Name(), f.path)
	}
	err := os.Link(f.Name(), f.path)
	if err != nil && errors.Is(err, fs.ErrExist) && sameFile(f.Name(), f.path) {
		err = nil
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		// No hard links here (some FUSE and FAT file systems): the other atomic way, where there is one.
		if renameErr := renameNoReplace(f.Name(), f.path); !errors.Is(renameErr, errors.ErrUnsupported) {
			return renameErr
		}
	}
	if err != nil {
		return err
	}
	_ = os.Remove(f.Name())
	return nil
}

func sameFile(a, b string) bool {
	ai, aErr := os.Lstat(a)
	bi, bErr := os.Lstat(b)
	return aErr == nil && bErr == nil && os.SameFile(ai, bi)
}

// Abort closes and removes the temporary file. After Commit or an earlier Abort it does nothing, so that it can be deferred.
func (f *File) Abort() error {
	if f.done {
		return nil
	}
	f.done = true
	return errors.Join(f.File.Close(), os.Remove(f.Name()))
}

// Close is Abort: closing without Commit publishes nothing.
func (f *File) Close() error { return f.Abort() }

// Path returns the destination. Name returns the temporary name.
func (f *File) Path() string { return f.path }
