package export

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"hpcimg/squashfs"
)

// DirOptions says how to make a directory. A nil *DirOptions and the zero value mean the same.
type DirOptions struct {
	Workers int // writing files; default GOMAXPROCS
	// Replace what has the name. Default: it is fs.ErrExist.
	Replace bool
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
// After an error nothing of it is left. A process that is killed leaves a directory whose name begins with a dot and ends in
// .part- and digits.
func Dir(ctx context.Context, name string, r *squashfs.Reader, opts *DirOptions) (*DirResult, error) {
	var o DirOptions
	if opts != nil {
		o = *opts
	}
	// The name of "." or of "a/.." is not the one to be replaced.
	name, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	if name == filepath.Dir(name) {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrInvalid}
	}
	if _, err := os.Lstat(name); err == nil && !o.Replace {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	temp, err := os.MkdirTemp(filepath.Dir(name), partPattern(filepath.Base(name)))
	if err != nil {
		return nil, err
	}
	result, err := fill(ctx, temp, r, o.Workers)
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

// partPattern returns the pattern of a temporary name that is not too long for a file.
func partPattern(base string) string {
	const enough = 200
	return "." + base[:min(len(base), enough)] + ".part-*"
}

func fill(ctx context.Context, temp string, r *squashfs.Reader, workers int) (*DirResult, error) {
	done, err := squashfs.ExtractTo(ctx, r, temp, &squashfs.ExtractOptions{Workers: workers})
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
	old = temp + ".old"
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
