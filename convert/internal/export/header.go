package export

import (
	"archive/tar"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"slices"
	"strings"
	"time"

	"hpcimg/convert/internal/layer"
	"hpcimg/squashfs"
)

const tarBlock = 512

// PAX records with extended attributes: raw, as most tools write and read them, and for the names that these records cannot have
// in the form of libarchive, with the name URL-encoded and the value in base64.
const (
	paxSchily     = "SCHILY.xattr."
	paxLibarchive = "LIBARCHIVE.xattr."

	// maxRecords is what Go's tar package, and with it most container engines, takes of PAX records of one entry.
	maxRecords = 1 << 20
)

// encode makes of the parts what stands for them in the stream.
func (b *batch) encode(rename func(string) string) error {
	for i := range b.parts {
		p := &b.parts[i]
		err := b.encodePart(p, rename)
		if err != nil {
			return entryError(p.path, err)
		}
	}
	return nil
}

func (b *batch) encodePart(p *part, rename func(string) string) error {
	if p.head {
		if err := b.header(p, rename); err != nil {
			return err
		}
	}
	if p.n == 0 {
		return nil
	}
	start := len(b.out)
	b.out = slices.Grow(b.out, p.n+tarBlock)[:start+p.n]
	n, err := p.in.ReadAt(b.out[start:], p.off)
	if n < p.n {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if end := p.off + int64(p.n); end == p.in.Size() {
		b.pad(int(-end & (tarBlock - 1)))
	}
	return nil
}

func (b *batch) pad(n int) {
	var zeros [tarBlock]byte
	b.out = append(b.out, zeros[:n]...)
}

// Write implements io.Writer, for headers.
func (b *batch) Write(p []byte) (int, error) {
	b.out = append(b.out, p...)
	return len(p), nil
}

// header adds the header of an entry.
func (b *batch) header(p *part, rename func(string) string) error {
	if rename == nil {
		rename = func(name string) string { return name }
	}
	in := p.in
	h := &tar.Header{
		Name: rename(p.path), Mode: unixMode(in.Mode()), Uid: int(in.UID()), Gid: int(in.GID()),
		ModTime: time.Unix(in.ModTime().Unix(), 0), Format: tar.FormatPAX,
	}
	if p.link != "" {
		h.Typeflag, h.Linkname = tar.TypeLink, rename(p.link)
		return tar.NewWriter(b).WriteHeader(h)
	}
	switch in.Mode().Type() {
	case 0:
		h.Typeflag, h.Size = tar.TypeReg, in.Size()
	case fs.ModeDir:
		h.Typeflag = tar.TypeDir
		h.Name += "/"
	case fs.ModeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, in.Readlink()
	case fs.ModeDevice:
		h.Typeflag = tar.TypeBlock
	case fs.ModeDevice | fs.ModeCharDevice:
		h.Typeflag = tar.TypeChar
	case fs.ModeNamedPipe:
		h.Typeflag = tar.TypeFifo
	}
	if h.Typeflag == tar.TypeBlock || h.Typeflag == tar.TypeChar {
		h.Devmajor, h.Devminor = int64(in.Rdev().Major), int64(in.Rdev().Minor)
	}
	xattrs, err := in.Xattrs()
	if err != nil {
		return err
	}
	if h.PAXRecords, err = records(xattrs); err != nil {
		return err
	}
	return tar.NewWriter(b).WriteHeader(h)
}

// storable reports whether tar has a type for in.
func storable(in *squashfs.Inode) bool { return in.Mode()&fs.ModeSocket == 0 }

func unixMode(m fs.FileMode) int64 {
	mode := int64(m.Perm())
	if m&fs.ModeSetuid != 0 {
		mode |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		mode |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		mode |= 0o1000
	}
	return mode
}

// records returns the PAX records for extended attributes.
func records(xattrs map[string]string) (map[string]string, error) {
	if len(xattrs) == 0 {
		return nil, nil
	}
	size := 0
	all := make(map[string]string, len(xattrs))
	for name, value := range xattrs {
		key := paxSchily + name
		if strings.Contains(name, "=") {
			// Such a name would end early.
			key, value = paxLibarchive+strings.ReplaceAll(url.PathEscape(name), "=", "%3D"), base64.RawStdEncoding.EncodeToString([]byte(value))
		}
		all[key] = value
		const around = len("1048576 =\n")
		size += around + len(key) + len(value)
	}
	if size > maxRecords-layer.MaxPath*3 { // what is left is for names and numbers
		return nil, fmt.Errorf("extended attributes: %w", &layer.LimitError{What: "bytes in the PAX records of an entry", Limit: maxRecords})
	}
	return all, nil
}
