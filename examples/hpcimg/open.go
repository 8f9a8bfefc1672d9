package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/sif"
	"hpcimg/squashfs"
)

// localImage is an image in the file system: a SIF file, a bare squashfs file
// or a directory. Exactly one of reader and dir is set; sif is set for a SIF, and
// oci in addition for an OCI-SIF.
type localImage struct {
	path   string
	name   string   // what the image is called inside; that of the file if empty
	file   *os.File // what reader reads; what is mounted
	sif    *sif.File
	oci    *image.Image
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
	for _, prefix := range []string{"sif:", "oci-sif:", "squashfs:", "dir:"} {
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
	case image.TransportDocker, image.TransportOCI, image.TransportOCIArchive, image.TransportDockerArchive, image.TransportDockerDaemon, image.TransportORAS:
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
		l.sif = s
		root, err := l.root()
		if err != nil {
			return nil, err
		}
		l.offset, l.size = root.Offset, root.Size
		l.reader, err = squashfs.NewReader(root.Open(), root.Size, nil)
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

// root returns the squashfs in a SIF file: the primary partition or, in an
// OCI-SIF, the layer.
func (l *localImage) root() (sif.Object, error) {
	primary, err := l.sif.Primary()
	if err == nil || !slices.ContainsFunc(l.sif.Objects(), isRootIndex) {
		return primary, err
	}
	if l.oci, err = convert.OCIImage(l.sif); err != nil {
		return sif.Object{}, err
	}
	layers := l.oci.Layers()
	for _, o := range l.sif.Objects() {
		layer := o.Type == sif.DataOCIBlob && len(layers) == 1 && o.Digest() == layers[0].Descriptor.Digest.String()
		if layer && layers[0].Descriptor.MediaType == convert.MediaTypeSquashfsLayer {
			return o, nil
		}
	}
	return sif.Object{}, errLayers
}

// errLayers is about an image in a file that is not one file system.
var errLayers = errors.New("an OCI-SIF with several layers, or one that is no squashfs: make a SIF file of it first (hpcimg convert)")

func isRootIndex(o sif.Object) bool { return o.Type == sif.DataOCIRootIndex }

// ociConfig returns the OCI configuration of an image. The error is
// fs.ErrNotExist if it has none.
func (l *localImage) ociConfig() (*sif.ImageConfig, error) {
	switch {
	case l.oci != nil:
		return new(sif.ImageConfig(l.oci.Config().Config)), nil
	case l.sif != nil:
		return l.sif.OCIConfig()
	}
	return nil, fmt.Errorf("OCI configuration: %w", fs.ErrNotExist)
}

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
