package mount_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/mount"
	"hpcimg/squashfs"
)

// TestPOSIX runs one suite over a directory that is mounted read-only, the kernel's squashfs and our server.
func TestPOSIX(t *testing.T) {
	oracle.Root(t)
	image := writeImage(t, sample(), nil)
	for name, mounted := range map[string]func(*testing.T) string{
		"directory": func(t *testing.T) string { return readOnlyDirectory(t) },
		"kernel":    func(t *testing.T) string { return oracle.KernelMount(t, image) },
		"fuse": func(t *testing.T) string {
			dir, _ := serve(t, mount.NewTree(openImage(t, image), nil), nil)
			return dir
		},
		"fuse with nodes": func(t *testing.T) string { // what is added comes from the image, too, in the other tests
			base := sample()
			small := slices.DeleteFunc(slices.Clone(base), func(e testtree.Entry) bool { return e.Path == "a/noise" })
			tree, err := mount.WithNodes(mount.NewTree(openImage(t, writeImage(t, small, &squashfs.WriterOptions{BlockSize: 4096})), nil),
				[]mount.Node{{Path: "a/noise", Mode: 0o755, Data: testtree.Bytes(1, 300_001)}})
			if err != nil {
				t.Fatal(err)
			}
			dir, _ := serve(t, tree, nil)
			return dir
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := mounted(t)
			t.Run("changes", func(t *testing.T) { posixChanges(t, dir) })
			t.Run("errors", func(t *testing.T) { posixErrors(t, dir) })
			t.Run("telldir", func(t *testing.T) { posixTelldir(t, dir) })
			t.Run("reading", func(t *testing.T) { posixReading(t, dir) })
			t.Run("xattrs", func(t *testing.T) { posixXattrs(t, dir) })
			t.Run("attributes", func(t *testing.T) { posixAttributes(t, dir) })
			t.Run("testfs", func(t *testing.T) {
				sub, err := fs.Sub(os.DirFS(dir), "many")
				if err != nil {
					t.Fatal(err)
				}
				names, err := fs.Glob(sub, "b-*")
				if err != nil || len(names) == 0 {
					t.Fatal(names, err)
				}
				if err := fstest.TestFS(sub, names...); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func readOnlyDirectory(t *testing.T) string {
	t.Helper()
	source, dir := t.TempDir(), t.TempDir()
	sample().Dir(t, source)
	if err := unix.Mount(source, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
		t.Fatal(err)
	}
	return dir
}

// posixChanges makes each call that would change something.
func posixChanges(t *testing.T, dir string) {
	file, absent, sub := dir+"/a/one", dir+"/a/absent", dir+"/a/empty"
	open := func(name string, flags int) func() error {
		return func() error {
			fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0o644)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}
	}
	for name, call := range map[string]func() error{
		"open O_WRONLY": open(file, unix.O_WRONLY),
		"open O_RDWR":   open(file, unix.O_RDWR),
		"open O_TRUNC":  open(file, unix.O_WRONLY|unix.O_TRUNC),
		"open O_CREAT":  open(absent, unix.O_WRONLY|unix.O_CREAT),
		"open O_TMPFILE": func() error {
			err := open(dir+"/a", unix.O_RDWR|unix.O_TMPFILE)()
			if errors.Is(err, unix.EOPNOTSUPP) { // file systems that could not do it anyway
				err = unix.EROFS
			}
			return err
		},
		"mkdir":       func() error { return unix.Mkdir(absent, 0o755) },
		"unlink":      func() error { return unix.Unlink(file) },
		"rmdir":       func() error { return unix.Rmdir(sub) },
		"rename":      func() error { return unix.Rename(file, absent) },
		"link":        func() error { return unix.Link(file, absent) },
		"symlink":     func() error { return unix.Symlink("x", absent) },
		"mknod":       func() error { return unix.Mknod(absent, unix.S_IFIFO|0o600, 0) },
		"chmod":       func() error { return unix.Chmod(file, 0o600) },
		"chown":       func() error { return unix.Lchown(file, 1, 1) },
		"truncate":    func() error { return unix.Truncate(file, 0) },
		"utimes":      func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, file, make([]unix.Timespec, 2), 0) },
		"setxattr":    func() error { return unix.Setxattr(file, "user.x", []byte("x"), 0) },
		"removexattr": func() error { return unix.Removexattr(dir+"/a/attrs", "user.one") },
		"access W_OK": func() error { return unix.Access(file, unix.W_OK) },
	} {
		if err := call(); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v, want EROFS", name, err)
		}
	}
}

func posixErrors(t *testing.T, dir string) {
	for _, test := range []struct {
		name  string
		flags int
		want  error
	}{
		{"a/loop", 0, unix.ELOOP},
		{"a/link", unix.O_NOFOLLOW, unix.ELOOP},
		{"a/dangling", 0, unix.ENOENT},
		{"a/absent", 0, unix.ENOENT},
		{"a/absent", 0, unix.ENOENT}, // as the kernel remembers it
		{"a/one/below", 0, unix.ENOTDIR},
		{"a/one", unix.O_DIRECTORY, unix.ENOTDIR},
		{"a/" + string(bytes.Repeat([]byte{'n'}, 256)), 0, unix.ENAMETOOLONG},
		{"a/" + string(bytes.Repeat([]byte{'n'}, 255)), 0, unix.ENOENT},
		{"a/null", 0, unix.EACCES}, // nodev
	} {
		fd, err := unix.Open(dir+"/"+test.name, unix.O_RDONLY|unix.O_CLOEXEC|test.flags, 0)
		if err == nil {
			unix.Close(fd)
		}
		if test.want == unix.EACCES && err == nil { // the kernel mount of the oracle allows devices
			continue
		}
		if len(test.name) == 258 && errors.Is(err, unix.ENOENT) { // squashfs knows names of 256 bytes
			continue
		}
		if !errors.Is(err, test.want) {
			t.Errorf("%.30s: %v, want %v", test.name, err, test.want)
		}
	}
	if _, err := unix.Readlink(dir+"/a/one", make([]byte, 10)); !errors.Is(err, unix.EINVAL) {
		t.Errorf("readlink of a file: %v", err)
	}
	fd, err := unix.Open(dir+"/a", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Read(fd, make([]byte, 10)); !errors.Is(err, unix.EISDIR) {
		t.Errorf("read of a directory: %v", err)
	}
}

// entry is what getdents64 tells.
type entry struct {
	name string
	ino  uint64
	next int64
	kind uint8
}

func getdents(t *testing.T, fd, room int) []entry {
	t.Helper()
	buf := make([]byte, room)
	n, err := unix.Getdents(fd, buf)
	if err != nil {
		t.Fatal(err)
	}
	var list []entry
	for buf = buf[:n]; len(buf) > 0; {
		// struct linux_dirent64: inode, offset, length of the record, type, name.
		length := binary.NativeEndian.Uint16(buf[16:])
		name, _, _ := bytes.Cut(buf[19:length], []byte{0})
		list = append(list, entry{string(name), binary.NativeEndian.Uint64(buf), int64(binary.NativeEndian.Uint64(buf[8:])), buf[18]})
		buf = buf[length:]
	}
	return list
}

// posixTelldir reads a directory in pieces of all sizes, and from each place that an entry names.
func posixTelldir(t *testing.T, dir string) {
	fd, err := unix.Open(dir+"/many", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var all []entry
	for _, room := range []int{64 << 10, 100, 4096} {
		if _, err := unix.Seek(fd, 0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		var list []entry
		for part := getdents(t, fd, room); len(part) > 0; part = getdents(t, fd, room) {
			list = append(list, part...)
		}
		if all == nil {
			all = list
		}
		if !slices.Equal(list, all) {
			t.Errorf("%d entries in pieces of %d, %d otherwise", len(list), room, len(all))
		}
	}
	names := make(map[string]bool)
	for i, e := range all {
		names[e.name] = true
		var st unix.Stat_t
		if err := unix.Lstat(dir+"/many/"+e.name, &st); err != nil || e.name != ".." && (st.Ino != e.ino || uint32(e.kind) != st.Mode>>12) {
			t.Errorf("%s: entry says %d and type %d, stat %d and %o, %v", e.name, e.ino, e.kind, st.Ino, st.Mode, err)
		}
		if i%50 != 0 || i == len(all)-1 {
			continue
		}
		if _, err := unix.Seek(fd, e.next, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if got := getdents(t, fd, 4096); len(got) == 0 || got[0] != all[i+1] {
			t.Errorf("behind %s: %v, want %v", e.name, got[:min(1, len(got))], all[i+1])
		}
	}
	if len(names) != 702 || len(all) != 702 || !names["."] || !names[".."] {
		t.Errorf("%d names, %d entries", len(names), len(all))
	}
}

// throughFile returns a copy of data that a system call has made.
func throughFile(t *testing.T, data []byte) []byte {
	f, err := os.Create(t.TempDir() + "/mapped")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mapped := make([]byte, len(data))
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(mapped, 0); err != nil {
		t.Fatal(err)
	}
	return mapped
}

// posixReading gets at contents in the ways that there are.
func posixReading(t *testing.T, dir string) {
	want := testtree.Bytes(1, 300_001)
	f, err := os.Open(dir + "/a/noise")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := int(f.Fd())
	page := os.Getpagesize()
	data, err := unix.Mmap(fd, 0, (len(want)+page-1)/page*page, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	// A page fault of Go code keeps its processor and holds up the collector, and the server is in this process. One in a system call
	// does not.
	mapped := throughFile(t, data)
	if !bytes.Equal(mapped[:len(want)], want) {
		t.Error("mmap: other contents")
	}
	if !bytes.Equal(mapped[len(want):], make([]byte, len(data)-len(want))) {
		t.Error("mmap: something behind the end")
	}
	if err := unix.Munmap(data); err != nil {
		t.Error(err)
	}
	out, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	var off int64
	for off < int64(len(want)) {
		if n, err := unix.Sendfile(int(out.Fd()), fd, &off, 1<<20); err != nil || n == 0 {
			t.Fatalf("sendfile: %d, %v", n, err)
		}
	}
	if got, err := os.ReadFile(out.Name()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("sendfile: other contents, %v", err)
	}
	if n, err := unix.Pread(fd, make([]byte, 10), 1<<40); n != 0 || err != nil {
		t.Errorf("far behind the end: %d, %v", n, err)
	}
	posixDirect(t, dir+"/a/noise", want)
}

// posixDirect reads with O_DIRECT, which squashfs itself does not have.
func posixDirect(t *testing.T, name string, want []byte) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EINVAL) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	buf, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(buf) }()
	for _, off := range []int64{0, 4096, 131072} {
		n, err := unix.Pread(fd, buf, off)
		if err != nil || !bytes.Equal(buf[:n], want[off:]) {
			t.Errorf("O_DIRECT at %d: %d bytes, %v", off, n, err)
		}
	}
}

func posixXattrs(t *testing.T, dir string) {
	name := dir + "/a/attrs"
	size, err := unix.Listxattr(name, nil)
	if err != nil || size != len("user.one\x00trusted.two\x00") {
		t.Errorf("list: %d bytes, %v", size, err)
	}
	buf := make([]byte, 100)
	if n, err := unix.Listxattr(name, buf); err != nil || n != size {
		t.Errorf("list: %q, %v", buf[:max(n, 0)], err)
	}
	if _, err := unix.Listxattr(name, buf[:3]); !errors.Is(err, unix.ERANGE) {
		t.Errorf("list with too little room: %v", err)
	}
	if n, err := unix.Getxattr(name, "trusted.two", nil); n != 2 || err != nil {
		t.Errorf("size of a value: %d, %v", n, err)
	}
	if n, err := unix.Getxattr(name, "trusted.two", buf); err != nil || string(buf[:n]) != "22" {
		t.Errorf("value: %d, %v", n, err)
	}
	if _, err := unix.Getxattr(name, "trusted.two", buf[:1]); !errors.Is(err, unix.ERANGE) {
		t.Errorf("value with too little room: %v", err)
	}
	if _, err := unix.Getxattr(name, "user.absent", buf); !errors.Is(err, unix.ENODATA) {
		t.Errorf("absent: %v", err)
	}
	if n, err := unix.Listxattr(dir+"/a/one", buf); n != 0 || err != nil {
		t.Errorf("a file without: %d, %v", n, err)
	}
}

func posixAttributes(t *testing.T, dir string) {
	var one, hard, null, holes unix.Stat_t
	for name, st := range map[string]*unix.Stat_t{"one": &one, "hard": &hard, "null": &null, "holes": &holes} {
		if err := unix.Lstat(dir+"/a/"+name, st); err != nil {
			t.Fatal(err)
		}
	}
	if one.Ino != hard.Ino || one.Nlink != 2 || hard.Nlink != 2 || one.Uid != 12 || one.Gid != 34 || one.Mode != unix.S_IFREG|0o640 {
		t.Errorf("hard links: %+v, %+v", one, hard)
	}
	if null.Mode != unix.S_IFCHR|0o666 || null.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("device: mode %o, %d", null.Mode, null.Rdev)
	}
	if holes.Size != 500_003 {
		t.Errorf("size %d", holes.Size)
	}
	var attrs unix.Stat_t
	if err := unix.Lstat(dir+"/a/attrs", &attrs); err != nil || attrs.Mode != unix.S_IFREG|0o4755 {
		t.Errorf("setuid: %o, %v", attrs.Mode, err)
	}
	var fsys unix.Statfs_t
	if err := unix.Statfs(dir, &fsys); err != nil || fsys.Flags&unix.ST_RDONLY == 0 || fsys.Namelen < 255 || fsys.Bsize < 512 || fsys.Blocks == 0 || fsys.Files == 0 {
		t.Errorf("statfs: %+v, %v", fsys, err)
	}
}
