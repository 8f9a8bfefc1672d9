package sif_test

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	"hpcimg/sif"
)

// acl is an access control list as the kernel stores it: what owner, user 77, group, mask and others may do.
func acl(owner, user77, group, mask, other uint16) []byte {
	const none = 0xffffffff
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, owner, none}, {2, user77, 77}, {4, group, none}, {16, mask, none}, {32, other, none}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// TestEditKeepsAccess: a file that has been edited is open to nobody to whom it was not.
func TestEditKeepsAccess(t *testing.T) {
	const name = "system.posix_acl_access"
	edit := func(path string) {
		t.Helper()
		must(t, sif.AddObject(t.Context(), path, &sif.NewObject{Type: sif.DataGeneric, Data: strings.NewReader("x")}, nil))
	}
	path := sampleFile(t)
	list := acl(6, 4, 0, 4, 0)
	oracle.Need(t, oracle.NeedFS, unix.Setxattr(path, name, list, 0))
	edit(path)
	got := make([]byte, 1024)
	n, err := unix.Getxattr(path, name, got)
	if err != nil || !bytes.Equal(got[:n], list) {
		t.Errorf("access control list %x, %v, want %x", got[:max(n, 0)], err, list)
	}
	// A directory gives its list to new files, but this one is not new.
	path = sampleFile(t)
	must(t, os.Chmod(path, 0o640))
	must(t, unix.Setxattr(filepath.Dir(path), "system.posix_acl_default", acl(7, 7, 7, 7, 7), 0))
	edit(path)
	if n, err := unix.Getxattr(path, name, got); err != unix.ENODATA {
		t.Errorf("access control list %x, %v", got[:max(n, 0)], err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

const editEnv = "HPCIMG_TEST_EDIT_FILE"

// TestEditChild is what TestEditOfAnother runs as somebody else.
func TestEditChild(t *testing.T) {
	if path := os.Getenv(editEnv); path != "" {
		must(t, sif.DeleteObject(t.Context(), path, 1, nil))
	}
}

// TestEditOfAnother: a file of another user and group may be replaced because the directory is ours. What its group could do is not for ours.
func TestEditOfAnother(t *testing.T) {
	oracle.Root(t)
	dir := oracle.UserDir(t)
	program := filepath.Join(dir, "test")
	self, err := os.ReadFile(os.Args[0])
	must(t, err)
	must(t, os.WriteFile(program, self, 0o755))
	path := filepath.Join(dir, "image.sif")
	for before, after := range map[fs.FileMode]fs.FileMode{0o664: 0o644, 0o755: 0o755, 0o604: 0o604, 0o676: 0o666} {
		must(t, os.WriteFile(path, sample(t), 0o600))
		must(t, os.Chown(path, 4242, 4343))
		must(t, os.Chmod(path, before))
		cmd := oracle.AsUser(t, exec.Command(program, "-test.run=^TestEditChild$"))
		cmd.Env = append(os.Environ(), editEnv+"="+path)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		info, err := os.Stat(path)
		must(t, err)
		if st := info.Sys().(*syscall.Stat_t); st.Uid == 4242 || st.Gid == 4343 || info.Mode() != after {
			t.Errorf("%v became %v of group %d", before, info.Mode(), st.Gid)
		}
		must(t, os.Remove(path))
	}
}

// TestPipes: an image that somebody has replaced by a pipe does not make us wait.
func TestPipes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image.sif")
	must(t, syscall.Mkfifo(path, 0o600))
	if _, err := sif.Open(path); err == nil {
		t.Error("opened a pipe")
	}
	if err := sif.DeleteObject(t.Context(), path, 1, nil); err == nil {
		t.Error("edited a pipe")
	}
}
