package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"hpcimg/image"
	"hpcimg/sif"
	"hpcimg/squashfs"
)

// localImage is an image in the file system: a SIF file, a bare squashfs file
// or a directory. Exactly one of reader and dir is set; sif is set for a SIF.
type localImage struct {
	path   string
	file   *os.File // what reader reads; what is mounted
	sif    *sif.File
	reader *squashfs.Reader
	dir    string
	offset int64 // of the squashfs in file
	size   int64
}

func (l *localImage) Close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// localPath strips the transport of a reference to a local image.
func localPath(ref string) (string, error) {
	for _, prefix := range []string{"sif:", "squashfs:", "dir:"} {
		if p, ok := strings.CutPrefix(ref, prefix); ok {
			return p, nil
		}
	}
	if isRemote(ref) {
		return "", usagef("%s is not a local image: pull it first (hpcimg pull %s)", ref, ref)
	}
	return ref, nil
}

// isRemote reports whether ref names an image in layers, in a registry, a
// layout or an archive, rather than a file to look into.
func isRemote(ref string) bool {
	r, err := image.ParseReference(ref)
	if err != nil {
		return false
	}
	switch r.Transport {
	case image.TransportDocker, image.TransportOCI, image.TransportOCIArchive, image.TransportDockerArchive, image.TransportORAS:
		return true
	default:
		return false
	}
}

// openLocal opens the image that ref names, which goes by its content.
func openLocal(ref string) (*localImage, error) {
	path, err := localPath(ref)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	l, err := newLocal(path, file)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

func newLocal(path string, file *os.File) (*localImage, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	l := &localImage{path: path, file: file}
	if info.IsDir() {
		l.dir = path
		return l, nil
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("not a file or directory (%s)", info.Mode().Type())
	}
	s, err := sif.NewFile(file, info.Size())
	switch {
	case err == nil:
		primary, err := s.Primary()
		if errors.Is(err, fs.ErrNotExist) && slices.ContainsFunc(s.Objects(), isRootIndex) {
			return nil, fmt.Errorf("is an OCI-SIF: make a SIF file of it first (hpcimg convert %s DEST.sif)", path)
		}
		if err != nil {
			return nil, err
		}
		l.sif, l.offset, l.size = s, primary.Offset, primary.Size
		l.reader, err = squashfs.NewReader(primary.Open(), primary.Size, nil)
		return l, err
	case errors.Is(err, sif.ErrFormat) && !looksLikeSIF(file):
		l.size = info.Size()
		if l.reader, err = squashfs.NewReader(file, l.size, nil); err != nil {
			if errors.Is(err, squashfs.ErrFormat) && !looksLikeSquashfs(file) {
				return nil, errors.New("not an image: neither a SIF file, a squashfs image nor a directory")
			}
			return nil, err
		}
		return l, nil
	default:
		return nil, err
	}
}

func isRootIndex(o sif.Object) bool { return o.Type == sif.DataOCIRootIndex }

// fsys is the image's root file system.
func (l *localImage) fsys() fs.FS {
	if l.reader != nil {
		return l.reader
	}
	return os.DirFS(l.dir)
}

// looksLikeSIF and looksLikeSquashfs tell a damaged image from something else,
// so that the complaint is about the right format.
func looksLikeSIF(f *os.File) bool { return magicAt(f, 32, "SIF_MAGIC") }

func looksLikeSquashfs(f *os.File) bool { return magicAt(f, 0, "hsqs") }

func magicAt(f *os.File, offset int64, magic string) bool {
	b := make([]byte, len(magic))
	_, err := f.ReadAt(b, offset)
	return err == nil && string(b) == magic
}
