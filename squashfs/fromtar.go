package squashfs

import (
	"archive/tar"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"strings"
)

// PAX records with extended attributes: a raw value, as GNU tar and OCI layers
// have it, and one in base64 under a URL-encoded name, as libarchive has it.
const (
	paxSchily     = "SCHILY.xattr."
	paxLibarchive = "LIBARCHIVE.xattr."
)

// FromTarOptions configures [Writer.FromTar].
type FromTarOptions struct {
	// Skip, if set, is asked about each extended attribute, see
	// [FromDirOptions].
	Skip func(path, xattr string) bool
}

// FromTar adds all entries of a tar archive: PAX, GNU or USTAR, sparse files
// included, not compressed. Of several entries with the same path the archive
// may have only one, save that a directory may come again. Whiteouts of OCI
// layers are plain files here.
func (w *Writer) FromTar(ctx context.Context, r io.Reader, opts *FromTarOptions) error {
	if opts == nil {
		opts = &FromTarOptions{}
	}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return prefixed(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue // a comment of git's
		}
		e, err := tarEntry(h, opts.Skip)
		if err != nil {
			return &EntryError{Path: h.Name, Err: err}
		}
		err = w.Add(ctx, e, tr)
		if e.Mode.IsDir() && e.HardLink == "" && errors.Is(err, fs.ErrExist) {
			err = nil
		}
		if err != nil {
			return err
		}
	}
}

// tarEntry turns a tar header into an entry.
func tarEntry(h *tar.Header, skip func(path, xattr string) bool) (Entry, error) {
	e := Entry{
		Path:    h.Name,
		Mode:    h.FileInfo().Mode(),
		UID:     uint32(h.Uid),
		GID:     uint32(h.Gid),
		ModTime: h.ModTime,
	}
	if int64(h.Uid) != int64(e.UID) || int64(h.Gid) != int64(e.GID) {
		return e, fmt.Errorf("%w: owner %d:%d", fs.ErrInvalid, h.Uid, h.Gid)
	}
	// Types go by the flag: the mode's own bits are not reliable.
	perm := e.Mode & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		e.Mode, e.Size = perm, h.Size
	case tar.TypeDir:
		e.Mode = perm | fs.ModeDir
	case tar.TypeSymlink:
		e.Mode, e.Target = perm|fs.ModeSymlink, h.Linkname
	case tar.TypeLink:
		return Entry{Path: h.Name, HardLink: h.Linkname}, nil
	case tar.TypeChar, tar.TypeBlock:
		e.Mode = perm | fs.ModeDevice
		if h.Typeflag == tar.TypeChar {
			e.Mode |= fs.ModeCharDevice
		}
		e.Rdev = Rdev{Major: uint32(h.Devmajor), Minor: uint32(h.Devminor)}
	case tar.TypeFifo:
		e.Mode = perm | fs.ModeNamedPipe
	default:
		return e, fmt.Errorf("%w: tar type %q", errors.ErrUnsupported, h.Typeflag)
	}
	var err error
	e.Xattrs, err = tarXattrs(h, skip)
	return e, err
}

func tarXattrs(h *tar.Header, skip func(path, xattr string) bool) (map[string]string, error) {
	var set map[string]string
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxSchily)
		if !ok {
			if name, ok = strings.CutPrefix(key, paxLibarchive); !ok {
				continue
			}
			var err error
			if name, err = url.PathUnescape(name); err != nil {
				return nil, fmt.Errorf("%w: xattr %q: %w", fs.ErrInvalid, key, err)
			}
			if _, both := h.PAXRecords[paxSchily+name]; both {
				continue
			}
			raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
			if err != nil {
				return nil, fmt.Errorf("%w: xattr %q: %w", fs.ErrInvalid, key, err)
			}
			value = string(raw)
		}
		if skip != nil && skip(h.Name, name) || !XattrSupported(name) {
			continue
		}
		if set == nil {
			set = make(map[string]string)
		}
		set[name] = value
	}
	return set, nil
}
