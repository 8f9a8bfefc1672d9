package export

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"hpcimg/internal/atomicfile"
	"hpcimg/squashfs"
)

// DirOptions says how to make a directory. A nil *DirOptions and the zero value mean the same.
type DirOptions struct {
	Workers int // writing files; default GOMAXPROCS
	// Replace what has the name. Default: it is fs.ErrExist.
	Replace bool
	// Progress is called with the bytes of files that have been written since the last time, by several goroutines.
	Progress func(n int64)
}

// DirResult says what has become of the tree.
type DirResult struct {
	*squashfs.ExtractResult
	// Left is where what has been replaced is, if it could not be removed; "" otherwise. Old is why.
	Left string
	Old  error
}

// Dir makes the directory name with the tree in it. It is filled under another name in the same directory, and gets its own when it
// is complete. Where the system can swap two names (Linux, on most file systems) there is no moment in which the name is not
// there. Owners, devices and extended attributes are restored as far as the process may; the result says what was not.
//
// After an error nothing of it is left. What a process has left that was killed, the next one to make this directory on the same machine
// removes. If that was what is being replaced, on a system that cannot swap two names, and has lost its own, it gets it back.
func Dir(ctx context.Context, name string, r *squashfs.Reader, opts *DirOptions) (*DirResult, error) {
	var o DirOptions
	if opts != nil {
		o = *opts
	}
	name, temp, err := begin(name, o.Replace)
	if err != nil {
		return nil, err
	}
	result, err := fill(ctx, temp, r, &o)
	if err != nil {
		return nil, errors.Join(err, removeTree(temp))
	}
	old, err := publishDir(temp, name, o.Replace)
	if err != nil {
		return nil, errors.Join(err, removeTree(temp))
	}
	if old != "" {
		if err := removeTree(old); err != nil {
			result.Left, result.Old = old, err
		}
	}
	return result, nil
}

// CheckDir refuses a name that [Dir] would refuse, before there is a tree, and removes what killed processes have left.
func CheckDir(name string, opts *DirOptions) error {
	_, temp, err := begin(name, opts != nil && opts.Replace)
	if err != nil {
		return err
	}
	return os.Remove(temp)
}

// begin makes the directory that is to be filled, and returns what it is to be called.
func begin(name string, replace bool) (abs, temp string, err error) {
	// The name of "." or of "a/.." is not the one to be replaced.
	if abs, err = filepath.Abs(name); err != nil {
		return "", "", err
	}
	if abs == filepath.Dir(abs) {
		return "", "", &fs.PathError{Op: "create", Path: abs, Err: fs.ErrInvalid}
	}
	if temp, err = atomicfile.Mkdir(abs, func(stale string) { restoreOrRemove(stale, abs) }); err != nil {
		return "", "", err
	}
	if _, err := os.Lstat(abs); err == nil && !replace {
		return "", "", errors.Join(&fs.PathError{Op: "create", Path: abs, Err: fs.ErrExist}, os.Remove(temp))
	}
	return abs, temp, nil
}

// oldSuffix is what the directory that is being replaced has behind its temporary name, where two names cannot be swapped.
const oldSuffix = ".old"

// restoreOrRemove clears away what a killed process has left of the making of a directory. No link is followed.
func restoreOrRemove(stale, name string) {
	if _, err := os.Lstat(name); strings.HasSuffix(stale, oldSuffix) && errors.Is(err, fs.ErrNotExist) {
		if errors.Is(renameNew(stale, name), errors.ErrUnsupported) {
			_ = os.Rename(stale, name)
		}
		return
	}
	_ = removeTree(stale)
}

func fill(ctx context.Context, temp string, r *squashfs.Reader, o *DirOptions) (*DirResult, error) {
	done, err := squashfs.ExtractTo(ctx, r, temp, &squashfs.ExtractOptions{Workers: o.Workers, Progress: o.Progress})
	if err != nil {
		return nil, err
	}
	return &DirResult{ExtractResult: done}, ctx.Err()
}

// publishDir gives the directory temp its name. What had the name has then the one that is returned.
func publishDir(temp, name string, replace bool) (old string, err error) {
	if !replace {
		err := renameNew(temp, name)
		if !errors.Is(err, errors.ErrUnsupported) {
			return "", err
		}
		if _, err := os.Lstat(name); err == nil {
			return "", &os.LinkError{Op: "rename", Old: temp, New: name, Err: fs.ErrExist}
		}
		return "", os.Rename(temp, name)
	}
	err = exchange(temp, name)
	switch {
	case err == nil:
		return temp, nil
	case errors.Is(err, fs.ErrNotExist):
		return "", os.Rename(temp, name)
	case !errors.Is(err, errors.ErrUnsupported):
		return "", err
	}
	old = temp + oldSuffix
	if err := os.Rename(name, old); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", os.Rename(temp, name)
		}
		return "", err
	}
	if err := os.Rename(temp, name); err != nil {
		return "", errors.Join(err, os.Rename(old, name))
	}
	return old, nil
}

// removeTree removes a tree whose directories need not let their owner in.
func removeTree(name string) error {
	if os.RemoveAll(name) == nil {
		return nil
	}
	if root, err := os.OpenRoot(filepath.Dir(name)); err == nil {
		unlock(root, filepath.Base(name))
		_ = root.Close()
	}
	if err := os.RemoveAll(name); err != nil {
		return fmt.Errorf("a part of %s is left: %w", name, err)
	}
	return nil
}

// unlock lets us into the directory at the given path and all below it, as far as they are ours.
func unlock(root *os.Root, dir string) {
	if info, err := root.Lstat(dir); err != nil || !info.IsDir() {
		return
	}
	_ = root.Chmod(dir, 0o700)
	entries, err := fs.ReadDir(root.FS(), dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			unlock(root, path.Join(dir, e.Name()))
		}
	}
}
