package image

import (
	"io"
	"io/fs"
	"os"
)

// files is a directory tree as far as a layout needs one: a directory, or a tar file with an index of its members. Missing files
// are fs.ErrNotExist.
type files interface {
	open(name string) (io.ReadCloser, int64, error)
	// describe names the tree in errors.
	describe() string
}

// dirFiles is a directory on disk. Nothing outside it is opened, whatever symbolic links it holds: layouts are downloaded and
// unpacked like anything else.
type dirFiles string

func (d dirFiles) describe() string { return string(d) }

func (d dirFiles) open(name string) (io.ReadCloser, int64, error) {
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return nil, 0, err
	}
	defer root.Close()
	// Devices are not even opened, which may do something to them. Pipes are opened without waiting for a writer, because the
	// file may have become one since; what was opened is looked at again.
	info, err := root.Stat(name)
	if err == nil {
		err = regular(name, info)
	}
	if err != nil {
		return nil, 0, err
	}
	f, err := root.OpenFile(name, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err = f.Stat()
	if err == nil {
		err = regular(name, info)
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

func regular(name string, info fs.FileInfo) error {
	if info.Mode().IsRegular() {
		return nil
	}
	return documentError("layout", name, "is %s, not a regular file", kindOf(info.Mode()))
}

func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeNamedPipe != 0:
		return "a pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}

// readFile reads a whole file of at most limit bytes.
func readFile(f files, name, what string, limit int64) ([]byte, error) {
	rc, size, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	if size > limit {
		return nil, &LimitError{What: what + " bytes", Limit: limit}
	}
	return io.ReadAll(io.LimitReader(rc, size))
}
