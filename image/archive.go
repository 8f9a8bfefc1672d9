package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

const (
	maxArchiveMembers = 200_000
	maxMemberNames    = 64 << 20 // bytes of all names together
	maxLinkHops       = 8
)

// archiveFiles is a tar file read through an index of its members; nothing is unpacked. The file is opened for each member, so that
// an Image has nothing to close; should it be another file by then, that is an error. A file without a name stays open until nobody
// can ask for a member any more.
type archiveFiles struct {
	path    string
	info    fs.FileInfo
	unnamed *os.File
	members map[string]member
}

type member struct {
	offset, size int64
	link         string // cleaned path of another member, instead of contents
}

// openArchive opens an archive in a file or, if the options have an input, on that.
func openArchive(ctx context.Context, name string, o Options) (*archiveFiles, error) {
	if name == "-" && o.Input != nil {
		return spoolArchive(ctx, "standard input", o.Input, o.TempDir)
	}
	return indexArchive(ctx, name)
}

// indexArchive reads the headers of a tar file.
func indexArchive(ctx context.Context, name string) (*archiveFiles, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("%w: %s, want a regular tar file", fs.ErrInvalid, kindOf(info.Mode()))}
	}
	if err := refuseCompressed(f); err != nil {
		return nil, err
	}
	a := &archiveFiles{path: name, info: info, members: map[string]member{}}
	if err := a.index(ctx, f); err != nil {
		return nil, err
	}
	return a, nil
}

// refuseCompressed looks for the magic numbers of compressed archives. Members are read in any order, which compression does not
// allow.
func refuseCompressed(f io.ReaderAt) error {
	var head [6]byte
	n, err := f.ReadAt(head[:], 0)
	if err != nil && err != io.EOF {
		return err
	}
	for _, c := range []struct{ magic, name, cure string }{
		{"\x1f\x8b", "gzip", "gunzip"},
		{"\x28\xb5\x2f\xfd", "zstd", "unzstd"},
		{"\xfd7zXZ\x00", "xz", "unxz"},
		{"BZh", "bzip2", "bunzip2"},
	} {
		if bytes.HasPrefix(head[:n], []byte(c.magic)) {
			return fmt.Errorf("archive is compressed with %s, which is %w because its members are read in any order: %s it first",
				c.name, errors.ErrUnsupported, c.cure)
		}
	}
	return nil
}

func (a *archiveFiles) index(ctx context.Context, f *os.File) error {
	tr := tar.NewReader(f)
	names := 0
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return documentError("archive", "", "%w", err)
		}
		if names += len(h.Name) + len(h.Linkname); len(a.members) == maxArchiveMembers || names > maxMemberNames {
			return &LimitError{What: "archive members", Limit: maxArchiveMembers}
		}
		clean := path.Clean("/" + h.Name)[1:]
		switch h.Typeflag {
		case tar.TypeReg:
			// The tar reader stands at the contents: it reads headers block by block and seeks over contents.
			offset, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			if h.Size > a.info.Size()-offset {
				return documentError("archive", clip(h.Name, 80), "ends after the file does: %w", io.ErrUnexpectedEOF)
			}
			a.members[clean] = member{offset: offset, size: h.Size}
		case tar.TypeLink:
			a.members[clean] = member{link: path.Clean("/" + h.Linkname)[1:]}
		case tar.TypeSymlink:
			// Old Dockers link a layer.tar to an equal one.
			a.members[clean] = member{link: path.Clean("/" + path.Join(path.Dir(clean), h.Linkname))[1:]}
		}
	}
}

func (a *archiveFiles) describe() string { return a.path }

func (a *archiveFiles) open(name string) (io.ReadCloser, int64, error) {
	m, ok := a.members[path.Clean("/" + name)[1:]]
	for hops := 0; ok && m.link != ""; hops++ {
		if hops == maxLinkHops {
			return nil, 0, documentError("archive", clip(name, 80), "is a chain of links")
		}
		m, ok = a.members[m.link]
	}
	if !ok {
		return nil, 0, &fs.PathError{Op: "open", Path: strings.TrimPrefix(name, "/"), Err: fs.ErrNotExist}
	}
	if a.unnamed != nil {
		return io.NopCloser(io.NewSectionReader(a.unnamed, m.offset, m.size)), m.size, nil
	}
	f, err := os.Open(a.path)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && (!os.SameFile(info, a.info) || info.Size() != a.info.Size() || !info.ModTime().Equal(a.info.ModTime())) {
		err = fmt.Errorf("%s changed while it was in use", a.path)
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return &memberReader{SectionReader: io.NewSectionReader(f, m.offset, m.size), Closer: f}, m.size, nil
}

type memberReader struct {
	*io.SectionReader
	io.Closer
}
