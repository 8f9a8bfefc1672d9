package squashfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

// A file may be made with the mode and the owner that it will have, which saves
// setting them. Whatever the destination makes of new files, the result must be
// what the image says.
func TestExtractBirth(t *testing.T) {
	own := testtree.Owner(os.Geteuid(), os.Getegid())
	tree := testtree.Tree{testtree.Dir(".", 0o755, own), testtree.Dir("here", 0o755, own), testtree.Dir("new", 0o750, own)}
	for i, mode := range []fs.FileMode{
		0o644, 0o755, 0o600, 0o700, 0o640, 0o750, 0o666, 0o777, 0o444, 0o555, 0o400, 0o622,
		0o755 | fs.ModeSetuid, 0o755 | fs.ModeSetgid, 0o644 | fs.ModeSticky, 0o644,
	} {
		name := string(rune('a' + i))
		tree = append(tree,
			testtree.File(name, mode, "top", own),
			testtree.File("here/"+name, mode, "here", own),
			testtree.File("new/"+name, mode, testtree.Text(uint64(i), 200<<10), own, testtree.MTime(int64(i))),
		)
	}
	if os.Geteuid() == 0 {
		for i, name := range []string{"1", "2", "3"} {
			tree = append(tree, testtree.File("new/"+name, 0o755|fs.ModeSetuid, "x", testtree.Owner(i, i)),
				testtree.File(name, 0o640, "x", testtree.Owner(0, 42)), testtree.Symlink("new/l"+name, "x", testtree.Owner(i, 7)))
		}
	}
	img := new(memory)
	w, err := squashfs.NewWriter(img, &squashfs.WriterOptions{Compression: squashfs.CompressionLZ4})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(addTree(tree)(t.Context(), w), w.Close()); err != nil {
		t.Fatal(err)
	}
	r, err := squashfs.NewReader(bytes.NewReader(img.b), int64(len(img.b)), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := tree.Listing()
	for name, prepare := range map[string]func(t *testing.T, dir string){
		"usual":        func(t *testing.T, _ string) { umask(t, 0o022) },
		"strict umask": func(t *testing.T, _ string) { umask(t, 0o077) },
		"odd umask":    func(t *testing.T, _ string) { umask(t, 0o036) },
		"no umask":     func(t *testing.T, _ string) { umask(t, 0) },
		"setgid": func(t *testing.T, dir string) {
			gid := os.Getegid()
			if os.Geteuid() == 0 {
				gid = 4242
			}
			if err := errors.Join(os.Chown(dir, -1, gid), os.Chmod(dir, 0o755|fs.ModeSetgid)); err != nil {
				t.Fatal(err)
			}
		},
		"default ACL":         defaultACL,
		"default ACL further": func(t *testing.T, dir string) { defaultACL(t, makeDir(t, dir, "here")) },
		"setgid further": func(t *testing.T, dir string) {
			sub := makeDir(t, dir, "here")
			if err := os.Chmod(sub, 0o755|fs.ModeSetgid); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, workers := range []int{1, 4} {
				dest := t.TempDir()
				prepare(t, dest)
				res, err := squashfs.ExtractTo(t.Context(), r, dest, &squashfs.ExtractOptions{Workers: workers})
				if err != nil || len(res.Skipped) > 0 {
					t.Fatalf("%+v, %v", res, err)
				}
				got, err := testtree.Walk(dest)
				if err != nil {
					t.Fatal(err)
				}
				if diff := testtree.Diff(want, got, &testtree.DiffOptions{IgnoreXattrs: []string{"system."}}); diff != "" {
					t.Errorf("(-image +extracted)\n%s", diff)
				}
			}
		})
	}
}

func makeDir(t *testing.T, dir, name string) string {
	t.Helper()
	sub := filepath.Join(dir, name)
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	return sub
}

func umask(t *testing.T, mask int) {
	t.Helper()
	old := syscall.Umask(mask)
	t.Cleanup(func() { syscall.Umask(old) })
}

// defaultACL gives a directory an ACL for new files that shuts others out.
func defaultACL(t *testing.T, dir string) {
	t.Helper()
	acl := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][2]uint16{{1, 7}, {4, 5}, {0x20, 0}} {
		acl = binary.LittleEndian.AppendUint16(acl, e[0])
		acl = binary.LittleEndian.AppendUint16(acl, e[1])
		acl = binary.LittleEndian.AppendUint32(acl, ^uint32(0))
	}
	oracle.Need(t, oracle.NeedFS, unix.Setxattr(dir, "system.posix_acl_default", acl, 0))
}
