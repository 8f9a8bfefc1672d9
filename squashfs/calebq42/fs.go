//go:build no_gpl || hpcimg_gpl

package calebq42

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/CalebQ42/squashfs"
)

// FS is an image as a file system: fs.FS, fs.ReadDirFS, fs.StatFS and
// fs.ReadLinkFS. Symbolic links are followed inside the image.
type FS struct{ root *squashfs.File }

var _ interface {
	fs.ReadDirFS
	fs.StatFS
	fs.ReadLinkFS
} = (*FS)(nil)

// NewFS opens the image in r.
func NewFS(r io.ReaderAt) (fsys *FS, err error) {
	defer recovered(&err)
	var sb [96]byte
	if _, err := r.ReadAt(sb[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !bytes.Equal(sb[:4], []byte("hsqs")) {
		return nil, errors.New("squashfs/calebq42: not a squashfs image")
	}
	const lzo = 3
	if !withLZO && binary.LittleEndian.Uint16(sb[20:]) == lzo {
		return nil, fmt.Errorf("squashfs/calebq42: lzo in a program built without the tag hpcimg_gpl: %w", errors.ErrUnsupported)
	}
	img, err := squashfs.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("squashfs/calebq42: %w", err)
	}
	return &FS{img.File()}, nil
}

// recovered turns a panic of the module into an error.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("squashfs/calebq42: damaged image: %v", p)
	}
}

// maxLinks is how many symbolic links are followed in a path.
const maxLinks = 40

// resolve walks name from the root.
func (f *FS) resolve(name string, follow bool) (file *squashfs.File, err error) {
	defer recovered(&err)
	stack := []*squashfs.File{f.root}
	links := 0
	for rest := name; rest != ""; {
		var elem string
		elem, rest, _ = strings.Cut(rest, "/")
		switch elem {
		case "", ".":
			continue
		case "..":
			stack = stack[:max(1, len(stack)-1)]
			continue
		}
		dir := stack[len(stack)-1]
		if !dir.IsDir() {
			return nil, syscall.ENOTDIR
		}
		sub, err := dir.FS()
		if err != nil {
			return nil, err
		}
		next, err := sub.OpenFile(elem)
		if err != nil {
			return nil, err
		}
		if next.IsSymlink() && (rest != "" || follow) {
			if links++; links > maxLinks {
				return nil, errors.New("too many symbolic links")
			}
			target := next.SymlinkPath()
			if strings.HasPrefix(target, "/") {
				stack = stack[:1]
			}
			rest = target + "/" + rest
			continue
		}
		stack = append(stack, next)
	}
	return stack[len(stack)-1], nil
}

func (f *FS) find(op, name string, follow bool) (*squashfs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	file, err := f.resolve(name, follow)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return file, nil
}

// Open implements fs.FS.
func (f *FS) Open(name string) (fs.File, error) {
	file, err := f.find("open", name, true)
	if err != nil {
		return nil, err
	}
	info, err := stat("open", name, file)
	if err != nil {
		return nil, err
	}
	if file.IsDir() {
		list, err := readDir(name, file)
		if err != nil {
			return nil, err
		}
		return &openDir{info: info, list: list}, nil
	}
	return &openFile{name: name, info: info, file: file}, nil
}

// ReadDir implements fs.ReadDirFS.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	file, err := f.find("readdir", name, true)
	if err != nil {
		return nil, err
	}
	return readDir(name, file)
}

// Stat implements fs.StatFS.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	file, err := f.find("stat", name, true)
	if err != nil {
		return nil, err
	}
	return stat("stat", name, file)
}

// Lstat is Stat, but does not follow a symbolic link.
func (f *FS) Lstat(name string) (fs.FileInfo, error) {
	file, err := f.find("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return stat("lstat", name, file)
}

// ReadLink returns the target of a symbolic link.
func (f *FS) ReadLink(name string) (string, error) {
	file, err := f.find("readlink", name, false)
	if err != nil {
		return "", err
	}
	if !file.IsSymlink() {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return file.SymlinkPath(), nil
}

func readDir(name string, file *squashfs.File) (list []fs.DirEntry, err error) {
	defer recovered(&err)
	if !file.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: syscall.ENOTDIR}
	}
	list, err = file.ReadDir(-1)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	for i, e := range list {
		if n := e.Name(); n == "" || n == "." || n == ".." || strings.ContainsAny(n, "/\x00") {
			return nil, &fs.PathError{Op: "readdir", Path: name, Err: fmt.Errorf("entry named %q", n)}
		}
		list[i] = dirEntry{e}
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return slices.Clip(list), nil
}

func stat(op, name string, file *squashfs.File) (info fs.FileInfo, err error) {
	defer recovered(&err)
	info, err = file.Stat()
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return fileInfo{info, path.Base(name)}, nil
}

// fileInfo has the last element of the path as its name: the module's root has
// none.
type fileInfo struct {
	fs.FileInfo
	name string
}

func (i fileInfo) Name() string { return i.name }

// dirEntry's Info has the same type as that of Stat.
type dirEntry struct{ fs.DirEntry }

func (d dirEntry) Info() (fs.FileInfo, error) {
	info, err := d.DirEntry.Info()
	return fileInfo{info, d.Name()}, err
}
