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

	// Most file systems allow names of 255 bytes; ours is the prefix of the real name plus 1+6 and 8+1+10+1+16 bytes.
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

// File is a file being written. Its embedded *os.File is open for reading and writing; it has the temporary name, or none yet.
type File struct {
	*os.File
	path      string
	mode      fs.FileMode
	noReplace bool
	unnamed   bool // the temporary name is not there before Commit
	done      bool
}

// Create opens a temporary file that Commit publishes as path.
func Create(path string, opts *Options) (*File, error) { return create(path, opts, openUnnamed) }

func create(path string, opts *Options, openUnnamed func(dir, name string) *os.File) (*File, error) {
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
	dir, name, err := split(path)
	if err != nil {
		return nil, err
	}
	tag := hostTag()
	removeStale(dir, prefix(name), tag, removeFile)
	for range createAttempts {
		temp := tempName(dir, name, tag)
		if f := openUnnamed(dir, temp); f != nil {
			return &File{File: f, path: path, mode: o.Mode, noReplace: o.NoReplace, unnamed: true}, nil
		}
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

// Mkdir makes a directory with a temporary name beside path, which it is to become, with mode 0700. Names that processes have left there which are no
// more are passed to remove first: that they are what they look like, and how they go, is for the caller to say.
func Mkdir(path string, remove func(stale string)) (temp string, err error) {
	dir, name, err := split(path)
	if err != nil {
		return "", err
	}
	tag := hostTag()
	removeStale(dir, prefix(name), tag, remove)
	for range createAttempts {
		temp := tempName(dir, name, tag)
		if err := os.Mkdir(temp, 0o700); !errors.Is(err, fs.ErrExist) {
			return temp, err
		}
	}
	return "", &fs.PathError{Op: "mkdir", Path: path, Err: fs.ErrExist}
}

func split(path string) (dir, name string, err error) {
	dir, name = filepath.Split(path)
	if name == "" || name == "." || name == ".." {
		return "", "", &fs.PathError{Op: "create", Path: path, Err: fs.ErrInvalid}
	}
	return dir, name, nil
}

func tempName(dir, name, tag string) string {
	return filepath.Join(dir, fmt.Sprintf("%s%s-%d-%s", prefix(name), tag, os.Getpid(), randomSuffix()))
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
	if f.unnamed {
		// Closing is what deletes it, so it needs a name before.
		if err == nil {
			err = f.publishUnnamed()
		}
		err = errors.Join(err, f.File.Close())
	} else if err = errors.Join(err, f.File.Close()); err == nil {
		err = f.publish()
	}
	if err != nil {
		f.remove()
		return err
	}
	if err := syncDir(filepath.Dir(f.path)); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

// publishUnnamed links the file under its own name or, if that may have to make way, under the temporary one first.
func (f *File) publishUnnamed() error {
	if f.noReplace {
		return link(f.File, f.path)
	}
	if err := link(f.File, f.Name()); err != nil {
		return err
	}
	f.unnamed = false
	return os.Rename(f.Name(), f.path)
}

// remove removes the temporary name, if there is one.
func (f *File) remove() {
	if !f.unnamed {
		_ = os.Remove(f.Name())
	}
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

// SetMode changes the permission that Commit gives the file. Unlike Options.Mode, zero means none.
func (f *File) SetMode(mode fs.FileMode) { f.mode = mode }

// Abort closes and removes the temporary file. After Commit or an earlier Abort it does nothing, so that it can be deferred.
func (f *File) Abort() error {
	if f.done {
		return nil
	}
	f.done = true
	if f.unnamed {
		return f.File.Close()
	}
	return errors.Join(f.File.Close(), os.Remove(f.Name()))
}

// Close is Abort: closing without Commit publishes nothing.
func (f *File) Close() error { return f.Abort() }

// Path returns the destination. Name returns the temporary name, whether it is there already or not.
func (f *File) Path() string { return f.path }
