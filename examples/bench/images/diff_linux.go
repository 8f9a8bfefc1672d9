package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// mark tells whether a file has been touched: nothing but the kernel sets the time of the last change.
type mark struct {
	inode  uint64
	change syscall.Timespec
}

// snapshot notes how a root file system is. Paths are relative to it.
func snapshot(ctx context.Context, rootfs string) (map[string]mark, error) {
	marks := make(map[string]mark)
	return marks, walk(ctx, rootfs, func(rel string, st *syscall.Stat_t, _ fs.FileInfo) error {
		marks[rel] = mark{st.Ino, st.Ctim}
		return nil
	})
}

func walk(ctx context.Context, rootfs string, fn func(rel string, st *syscall.Stat_t, info fs.FileInfo) error) error {
	return filepath.WalkDir(rootfs, func(name string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		rel, err := filepath.Rel(rootfs, name)
		if err != nil || rel == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return fn(rel, info.Sys().(*syscall.Stat_t), info)
	})
}

// differ writes as a layer what has changed in a root file system.
type differ struct {
	rootfs string
	before map[string]mark
	now    map[string]fs.FileMode
	links  map[uint64]string // first name of an inode that has several
	tw     *tar.Writer
}

func (d *differ) write(ctx context.Context, tw *tar.Writer) error {
	d.tw, d.now, d.links = tw, make(map[string]fs.FileMode), make(map[uint64]string)
	err := walk(ctx, d.rootfs, func(rel string, st *syscall.Stat_t, info fs.FileInfo) error {
		d.now[rel] = info.Mode()
		if d.before[rel] == (mark{st.Ino, st.Ctim}) || info.Mode()&fs.ModeSocket != 0 {
			return nil
		}
		return d.add(rel, st, info)
	})
	if err != nil {
		return err
	}
	return d.whiteouts()
}

func (d *differ) add(rel string, st *syscall.Stat_t, info fs.FileInfo) error {
	name := filepath.Join(d.rootfs, rel)
	var target string
	var err error
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(name); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name = filepath.ToSlash(rel)
	if info.IsDir() {
		h.Name += "/"
	}
	// What the machine calls a user, and times that are not a file's own, are no part of an image.
	h.Uname, h.Gname, h.AccessTime, h.ChangeTime = "", "", time.Time{}, time.Time{}
	h.ModTime = h.ModTime.Truncate(time.Second)
	if !info.IsDir() && st.Nlink > 1 {
		first, ok := d.links[st.Ino]
		if ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return d.tw.WriteHeader(h)
		}
		d.links[st.Ino] = h.Name
	}
	if h.PAXRecords, err = xattrs(name); err != nil {
		return err
	}
	if err := d.tw.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(d.tw, f, h.Size)
	return err
}

// whiteouts adds a whiteout for everything that is gone, unless the directory that it was in is gone too.
func (d *differ) whiteouts() error {
	var gone []string
	for rel := range d.before {
		if _, ok := d.now[rel]; ok {
			continue
		}
		if dir := path.Dir(rel); dir == "." || d.now[dir].IsDir() {
			gone = append(gone, rel)
		}
	}
	slices.Sort(gone)
	for _, rel := range gone {
		dir, base := path.Split(rel)
		if err := d.tw.WriteHeader(&tar.Header{Name: dir + ".wh." + base, Mode: 0o600, Typeflag: tar.TypeReg}); err != nil {
			return err
		}
	}
	return nil
}

// xattrs returns the extended attributes of a file as records of a PAX header.
func xattrs(name string) (map[string]string, error) {
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(name, list)
	if err != nil || n == 0 {
		return nil, ignoreUnsupported(err)
	}
	records := make(map[string]string)
	value := make([]byte, 64<<10)
	for attr := range bytes.SplitSeq(bytes.TrimSuffix(list[:n], []byte{0}), []byte{0}) {
		if strings.HasPrefix(string(attr), "system.") || string(attr) == "security.selinux" {
			continue
		}
		n, err := unix.Lgetxattr(name, string(attr), value)
		if err != nil {
			return nil, &fs.PathError{Op: "getxattr", Path: name, Err: err}
		}
		records["SCHILY.xattr."+string(attr)] = string(value[:n])
	}
	return records, nil
}

func ignoreUnsupported(err error) error {
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}
