package estargz

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"hpcimg/convert/internal/layer"
)

const (
	prefetchLandmark   = ".prefetch.landmark"
	noPrefetchLandmark = ".no.prefetch.landmark"
	tocName            = "stargz.index.json"
	landmarkByte       = 0x0f

	schilyXattr = "SCHILY.xattr."
	paxSparse   = "GNU.sparse."

	maxTarget = 4095
	maxXattrs = 64 << 10
	maxID     = 1<<32 - 2
	maxMajor  = 1<<12 - 1
	maxMinor  = 1<<20 - 1
	maxMode   = 0o7777777
	maxOwner  = 255 // bytes in the name of a user or group
)

// header is a tar header that the blob will have.
type header struct {
	tar  *tar.Header
	name string // tar.Name
	path string // clean and relative; "" is the root
	link string // of a hard link, clean
	size int64  // of the contents
}

func landmarkHeader(name string) *header {
	return &header{tar: &tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 1}, name: name, path: name, size: 1}
}

func landmarkContents() io.Reader { return bytes.NewReader([]byte{landmarkByte}) }

// cleanName returns the path that name is inside the root.
func cleanName(name string) string { return path.Clean("/" + name)[1:] }

// newHeader checks h and takes out of it what could be understood in two ways. It returns nil for what the blob has of its own or does
// not need.
func newHeader(h *tar.Header) (*header, error) {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil, nil // a comment, as in archives of git
	}
	p, err := checkPath(h.Name)
	if err != nil {
		return nil, err
	}
	switch p {
	case prefetchLandmark, noPrefetchLandmark, tocName:
		return nil, nil
	}
	c := &header{tar: h, name: h.Name, path: p}
	if err := c.checkType(); err != nil {
		return nil, err
	}
	if err := c.checkOwner(); err != nil {
		return nil, err
	}
	return c, checkXattrs(h.PAXRecords)
}

func checkPath(name string) (string, error) {
	if len(name) > layer.MaxPath {
		return "", &layer.LimitError{What: "bytes in a path", Limit: layer.MaxPath}
	}
	if err := checkText(name); err != nil {
		return "", err
	}
	p := cleanName(name)
	for part := range strings.SplitSeq(p, "/") {
		if len(part) > layer.MaxName {
			return "", &layer.LimitError{What: "bytes in a name", Limit: layer.MaxName}
		}
	}
	return p, nil
}

func checkText(s string) error {
	if strings.IndexByte(s, 0) >= 0 {
		return fmt.Errorf("%w: NUL byte", layer.ErrUnsafePath)
	}
	if !utf8.ValidString(s) {
		return unsupported("%.200q is not UTF-8", s)
	}
	return nil
}

// unsupported is a layer that is in order, but that a TOC cannot describe.
func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w in eStargz: %s; store the layer as plain tar", errors.ErrUnsupported, fmt.Sprintf(format, args...))
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", layer.ErrFormat, fmt.Errorf(format, args...))
}

func (c *header) checkType() error {
	h := c.tar
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		if c.path == "" {
			return fmt.Errorf("%w: the root has to be a directory", layer.ErrUnsafePath)
		}
		if h.Size < 0 {
			return malformed("size %d", h.Size)
		}
		c.plainFile()
		return nil
	case tar.TypeSymlink:
		switch {
		case h.Linkname == "":
			return malformed("symbolic link without a target")
		case len(h.Linkname) > maxTarget:
			return &layer.LimitError{What: "bytes in a link target", Limit: maxTarget}
		}
		if err := checkText(h.Linkname); err != nil {
			return err
		}
	case tar.TypeLink:
		link, err := checkPath(h.Linkname)
		if err != nil {
			return fmt.Errorf("link target: %w", err)
		}
		c.link = link
	case tar.TypeChar, tar.TypeBlock:
		if h.Devmajor < 0 || h.Devmajor > maxMajor || h.Devminor < 0 || h.Devminor > maxMinor {
			return malformed("device number %d:%d", h.Devmajor, h.Devminor)
		}
	case tar.TypeDir, tar.TypeFifo:
	default:
		return fmt.Errorf("%w: tar entry of type %q", errors.ErrUnsupported, h.Typeflag)
	}
	if c.path == "" && h.Typeflag != tar.TypeDir {
		return fmt.Errorf("%w: the root has to be a directory", layer.ErrUnsafePath)
	}
	h.Size = 0 // some parsers believe a size here, others do not
	return nil
}

// plainFile makes of h, whose contents are read without holes, the header of a file without any.
func (c *header) plainFile() {
	h := c.tar
	h.Typeflag = tar.TypeReg
	c.size = h.Size
	// To some parsers a slash at the end means a directory.
	h.Name = strings.TrimRight(h.Name, "/")
	c.name = h.Name
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, paxSparse) {
			h.PAXRecords = maps.Clone(h.PAXRecords)
			maps.DeleteFunc(h.PAXRecords, func(k, _ string) bool { return strings.HasPrefix(k, paxSparse) })
			break
		}
	}
}

func (c *header) checkOwner() error {
	h := c.tar
	if h.Uid < 0 || int64(h.Uid) > maxID || h.Gid < 0 || int64(h.Gid) > maxID {
		return malformed("owner %d:%d", h.Uid, h.Gid)
	}
	if h.Mode < 0 || h.Mode > maxMode {
		return malformed("mode %o", h.Mode)
	}
	if len(h.Uname) > maxOwner || len(h.Gname) > maxOwner {
		return &layer.LimitError{What: "bytes in the name of an owner", Limit: maxOwner}
	}
	return nil
}

func checkXattrs(records map[string]string) error {
	size := 0
	for key, value := range records {
		name, ok := strings.CutPrefix(key, schilyXattr)
		if !ok {
			continue
		}
		if name == "" || len(name) > layer.MaxName {
			return malformed("extended attribute name %.300q", name)
		}
		if err := checkText(name); err != nil {
			return fmt.Errorf("extended attribute: %w", err)
		}
		if size += len(name) + len(value); size > maxXattrs {
			return &layer.LimitError{What: "bytes in the extended attributes of a file", Limit: maxXattrs}
		}
	}
	return nil
}

// text is how much the entry keeps in memory.
func (c *header) text() int64 {
	n := int64(len(c.name) + len(c.path) + len(c.tar.Linkname) + len(c.tar.Uname) + len(c.tar.Gname))
	for key, value := range c.tar.PAXRecords {
		if strings.HasPrefix(key, schilyXattr) {
			n += int64(len(key) + len(value))
		}
	}
	return n
}

// appendTo writes the blocks of the header to b.
func (c *header) appendTo(b []byte) ([]byte, error) {
	format := c.tar.Format
	if format == tar.FormatUnknown {
		format = tar.FormatPAX // which is USTAR where that will do; else the writer would choose by itself, and round times
	}
	out, err := appendHeader(b, c.tar, format)
	if err != nil {
		// The reader puts up with headers of one format that have what only another may have.
		out, err = appendHeader(b, c.tar, tar.FormatPAX)
	}
	if err != nil {
		return b, fmt.Errorf("%w: %w", layer.ErrFormat, err)
	}
	return out, nil
}

func appendHeader(b []byte, h *tar.Header, format tar.Format) ([]byte, error) {
	c := *h
	c.Format = format
	buf := appender{b}
	err := tar.NewWriter(&buf).WriteHeader(&c)
	return buf.b, err
}

// appender is an io.Writer.
type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}

// entry is what the TOC says of c. Chunks and digest of the contents are not known yet.
func (c *header) entry() entry {
	h := c.tar
	e := entry{
		name: c.name, size: c.size, mode: h.Mode, uid: h.Uid, gid: h.Gid, uname: h.Uname, gname: h.Gname,
		modTime: formatTime(h.ModTime),
	}
	switch h.Typeflag {
	case tar.TypeReg:
		e.kind = "reg"
		e.digest = sha256.Sum256(nil) // until there are contents
	case tar.TypeDir:
		e.kind = "dir"
	case tar.TypeSymlink:
		e.kind, e.link = "symlink", h.Linkname
	case tar.TypeLink:
		e.kind, e.link = "hardlink", h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		e.kind, e.major, e.minor = "char", h.Devmajor, h.Devminor
		if h.Typeflag == tar.TypeBlock {
			e.kind = "block"
		}
	case tar.TypeFifo:
		e.kind = "fifo"
	}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, schilyXattr); ok {
			if e.xattrs == nil {
				e.xattrs = make(map[string]string)
			}
			e.xattrs[name] = value
		}
	}
	return e
}

// formatTime writes a time as the TOC has it. None means 1970.
func formatTime(t time.Time) string {
	if t.IsZero() || t.Unix() == 0 {
		return ""
	}
	return t.UTC().Round(time.Second).Format(time.RFC3339)
}
