package testtree

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"
)

// Listing is what stands in a tree, by slash-separated path; "." is its root.
type Listing map[string]Node

// Node is one entry of a [Listing]. Two nodes are compared with ==.
type Node struct {
	Mode     fs.FileMode // with the type
	UID, GID uint32
	ModTime  int64  // seconds since 1970
	Size     int64  // regular files
	SHA256   string // contents of regular files, hexadecimal
	Target   string // symlinks
	Major    uint32 // devices
	Minor    uint32 // devices
	Links    uint32 // link count; 0 for directories, where file systems disagree
	Group    string // first path of the inode, where several paths of the listing name it
	Xattrs   string // as FormatXattrs writes them
	Implied  bool   // a directory known by its contents only: Diff compares its type
}

// FormatXattrs writes extended attributes one a line, sorted by name, the value quoted.
func FormatXattrs(xattrs map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		fmt.Fprintf(&b, "%s=%q\n", name, xattrs[name])
	}
	return b.String()
}

// Paths returns the paths of the listing in order.
func (l Listing) Paths() []string { return slices.Sorted(maps.Keys(l)) }

// group sets Node.Group where several paths have the same inode identity.
func (l Listing) group(inodes map[string]any) {
	first := make(map[any]string)
	for _, name := range l.Paths() {
		n := l[name]
		if n.Mode.IsDir() {
			continue
		}
		id := inodes[name]
		if id == nil {
			continue
		}
		leader, seen := first[id]
		if !seen {
			first[id] = name
			continue
		}
		for _, member := range []string{leader, name} {
			n := l[member]
			n.Group = leader
			l[member] = n
		}
	}
}

// What a FileInfo may offer beyond io/fs, by the names of squashfs.FileInfo.
type (
	owned   interface{ UID() uint32 }
	grouped interface{ GID() uint32 }
	linked  interface{ LinkCount() uint32 }
	numered interface{ Inode() uint32 }
	attred  interface {
		Xattrs() (map[string]string, error)
	}
)

// FromFS lists a file system. What its FileInfo does not tell is zero. Symlinks are read by [fs.ReadLink].
func FromFS(fsys fs.FS) (Listing, error) {
	l := make(Listing)
	inodes := make(map[string]any)
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		n, err := nodeFromFS(fsys, name, info)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		l[name] = n
		if i, ok := info.(numered); ok {
			inodes[name] = i.Inode()
		}
		return nil
	})
	l.group(inodes)
	return l, err
}

func nodeFromFS(fsys fs.FS, name string, info fs.FileInfo) (n Node, err error) {
	n.Mode, n.ModTime = info.Mode(), info.ModTime().Unix()
	if i, ok := info.(owned); ok {
		n.UID = i.UID()
	}
	if i, ok := info.(grouped); ok {
		n.GID = i.GID()
	}
	if i, ok := info.(linked); ok && !n.Mode.IsDir() {
		n.Links = i.LinkCount()
	}
	if i, ok := info.(attred); ok {
		xattrs, err := i.Xattrs()
		if err != nil {
			return n, err
		}
		n.Xattrs = FormatXattrs(xattrs)
	}
	switch {
	case n.Mode.IsRegular():
		f, err := fsys.Open(name)
		if err != nil {
			return n, err
		}
		n.Size, n.SHA256, err = sumReader(f)
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		if err == nil && n.Size != info.Size() {
			err = fmt.Errorf("%d bytes read, %d announced", n.Size, info.Size())
		}
		return n, err
	case n.Mode&fs.ModeSymlink != 0:
		n.Target, err = fs.ReadLink(fsys, name)
	case n.Mode&fs.ModeDevice != 0:
		n.Major, n.Minor = rdev(info)
	}
	return n, err
}

// rdev calls a method Rdev that returns a struct of Major and Minor. By reflection, for the type is the file system's own
// and its package's tests import this one.
func rdev(info fs.FileInfo) (major, minor uint32) {
	method := reflect.ValueOf(info).MethodByName("Rdev")
	if !method.IsValid() || method.Type().NumIn() != 0 || method.Type().NumOut() != 1 {
		return 0, 0
	}
	v := method.Call(nil)[0]
	if v.Kind() != reflect.Struct {
		return 0, 0
	}
	if f := v.FieldByName("Major"); f.IsValid() && f.CanUint() {
		major = uint32(f.Uint())
	}
	if f := v.FieldByName("Minor"); f.IsValid() && f.CanUint() {
		minor = uint32(f.Uint())
	}
	return major, minor
}

func sum(data []byte) string {
	digest := sha256.Sum256(data)
	return hex.EncodeToString(digest[:])
}

func sumReader(r io.Reader) (size int64, digest string, err error) {
	h := sha256.New()
	size, err = io.Copy(h, r)
	return size, hex.EncodeToString(h.Sum(nil)), err
}

// Sub returns the part of the listing below dir, which becomes its root.
func (l Listing) Sub(dir string) Listing {
	out := make(Listing)
	for name, n := range l {
		switch rest, below := strings.CutPrefix(name, dir+"/"); {
		case name == dir:
			out["."] = n
		case below:
			n.Group = strings.TrimPrefix(n.Group, dir+"/")
			out[path.Clean(rest)] = n
		}
	}
	return out
}
