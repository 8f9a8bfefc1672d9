package testtree

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// TarOptions changes how [Tree.Tar] writes. The zero value is what a container tool writes.
type TarOptions struct {
	Format  tar.Format // 0 is whichever the entry needs: USTAR where it fits, else PAX
	NoSlash bool       // directories without a trailing slash
	Prefix  string     // before every path and hard link target, such as "./" or "/"
}

// Tar returns the tree as a tar stream. It panics when the tree cannot be written as one: a mistake in the test.
func (t Tree) Tar(o *TarOptions) []byte {
	var b bytes.Buffer
	if err := t.writeTar(&b, o); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// WriteTar writes the tree as a tar stream.
func (t Tree) WriteTar(w io.Writer) error { return t.writeTar(w, nil) }

// TarGzip returns the tree as a gzip-compressed tar stream.
func (t Tree) TarGzip(o *TarOptions) []byte { return Gzip(t.Tar(o)) }

// Gzip compresses data, without a name or time of its own.
func Gzip(data []byte) []byte {
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	_, _ = zw.Write(data) // a bytes.Buffer takes it all
	_ = zw.Close()
	return b.Bytes()
}

func (t Tree) writeTar(w io.Writer, o *TarOptions) error {
	if o == nil {
		o = &TarOptions{}
	}
	tw := tar.NewWriter(w)
	for _, e := range t {
		h, err := e.header(o)
		if err != nil {
			return err
		}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("testtree: %s: %w", e.Path, err)
		}
		if _, err := tw.Write(e.Data); err != nil {
			return fmt.Errorf("testtree: %s: %w", e.Path, err)
		}
	}
	return tw.Close()
}

func (e Entry) header(o *TarOptions) (*tar.Header, error) {
	h := &tar.Header{
		Name: o.Prefix + e.Path, Linkname: e.Target, Mode: int64(unixMode(e.Mode)), Uid: e.UID, Gid: e.GID,
		ModTime: e.modTime(), Devmajor: int64(e.Major), Devminor: int64(e.Minor), Size: int64(len(e.Data)), Format: o.Format,
	}
	for name, value := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string)
		}
		h.PAXRecords["SCHILY.xattr."+name] = value
	}
	switch {
	case e.HardLink != "":
		h.Typeflag, h.Linkname = tar.TypeLink, o.Prefix+e.HardLink
	case e.Mode.IsRegular():
		h.Typeflag = tar.TypeReg
	case e.Mode.IsDir():
		h.Typeflag = tar.TypeDir
		if !o.NoSlash && !strings.HasSuffix(h.Name, "/") {
			h.Name += "/"
		}
	case e.Mode&fs.ModeSymlink != 0:
		h.Typeflag = tar.TypeSymlink
	case e.Mode&fs.ModeCharDevice != 0:
		h.Typeflag = tar.TypeChar
	case e.Mode&fs.ModeDevice != 0:
		h.Typeflag = tar.TypeBlock
	case e.Mode&fs.ModeNamedPipe != 0:
		h.Typeflag = tar.TypeFifo
	default:
		return nil, fmt.Errorf("testtree: %s: a tar stream has no type for %v", e.Path, e.Mode)
	}
	return h, nil
}
