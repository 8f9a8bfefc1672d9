package cache_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"hpcimg/image/cache"
	"hpcimg/internal/oracle"
)

// TestOtherUsersFiles wants a file of somebody else to be a miss, unless that user is trusted.
func TestOtherUsersFiles(t *testing.T) {
	oracle.Root(t)
	uid, gid := oracle.User(t)
	dir := filepath.Join(t.TempDir(), "cache")
	c := open(t, dir, nil)
	store(t, c, cache.KindSegment, key("a"), []byte("data"), nil)
	path := c.Path(cache.KindSegment, key("a"))
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
	trusting := open(t, dir, &cache.Options{Owners: []uint32{uint32(uid)}})
	checkEntry(t, get(t, trusting, cache.KindSegment, key("a")), []byte("data"), nil)
	site := open(t, "", &cache.Options{Site: []string{dir}})
	miss(t, site, cache.KindSegment, key("a"))
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	miss(t, c, cache.KindSegment, key("a"))
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the other user's file is still there: %v", err)
	}
}

// TestOtherUsersDirectory wants a cache of somebody else to be refused, as the own tier and as a site's, and
// what is in that user's mark too.
func TestOtherUsersDirectory(t *testing.T) {
	oracle.Root(t)
	uid, gid := oracle.User(t)
	dir := t.TempDir()
	c := open(t, dir, nil)
	store(t, c, cache.KindSegment, key("a"), []byte("data"), nil)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Join(dir, "v1")} {
		if err := os.Chown(path, uid, gid); err != nil {
			t.Fatal(err)
		}
		for _, opts := range []*cache.Options{nil, {Site: []string{dir}}} {
			own := dir
			if opts != nil {
				own = filepath.Join(t.TempDir(), "own")
			}
			_, err := cache.Open(own, opts)
			untrusted, ok := errors.AsType[*cache.UntrustedError](err)
			if !ok || untrusted.Path != path || untrusted.Owner != uint32(uid) || !strings.Contains(err.Error(), "another directory") {
				t.Errorf("%s: %v", path, err)
			}
		}
		open(t, dir, &cache.Options{Owners: []uint32{uint32(uid)}})
		if err := os.Chown(path, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	side := c.Path(cache.KindSegment, key("a")) + ".used"
	if err := os.Chown(side, uid, gid); err != nil {
		t.Fatal(err)
	}
	if verified, _ := c.HasMark(cache.KindSegment, key("a")); verified {
		t.Error("believes what another user says was verified")
	}
}

// TestFullDisk runs out of space at every size, and wants an error that says so and nothing left.
func TestFullDisk(t *testing.T) {
	mnt := smallFileSystem(t, "1m")
	c := open(t, mnt, nil)
	full := 0
	for n := range 100 {
		// Room for all but the last pages, so that data, metadata, footer and side file run out in turn.
		free := freeBytes(t, mnt)
		data := make([]byte, max(0, free-int64(n)*4096))
		for i := range data {
			data[i] = 1
		}
		e, err := tryStore(c, cache.KindSegment, key("a"), data, make([]byte, 4000))
		switch {
		case err == nil:
			checkEntry(t, e, data, make([]byte, 4000))
			e.Close()
			checkEntry(t, get(t, c, cache.KindSegment, key("a")), data, make([]byte, 4000))
		case errors.Is(err, syscall.ENOSPC):
			full++
			miss(t, c, cache.KindSegment, key("a"))
		default:
			t.Fatal(err)
		}
		noTemps(t, mnt)
		if err := c.Remove(cache.KindSegment, key("a")); err != nil {
			t.Fatal(err)
		}
		if err == nil && n > 8 {
			break
		}
	}
	if full == 0 {
		t.Error("it never ran out of space")
	}
}

// TestBlobOnFullDisk wants a blob that has no room to be read all the same, with nothing of it left in the way of others.
func TestBlobOnFullDisk(t *testing.T) {
	mnt := smallFileSystem(t, "3m")
	free := freeBytes(t, mnt)
	c := open(t, mnt, nil)
	o := newOrigin(5*mib + 3)
	wantBlob(t, c, o)
	noLeftovers(t, mnt)
	if now := freeBytes(t, mnt); now < free-256<<10 {
		t.Errorf("%d bytes are free of %d", now, free)
	}
	wantBlob(t, c, newOrigin(mib))
}

// smallFileSystem returns the mount point of one of size, as tmpfs takes it.
func smallFileSystem(t *testing.T, size string) string {
	t.Helper()
	oracle.Root(t)
	mnt := t.TempDir()
	oracle.Need(t, oracle.NeedRoot, unix.Mount("tmpfs", mnt, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=700,size="+size))
	t.Cleanup(func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Errorf("unmounting: %v", err)
			_ = unix.Unmount(mnt, unix.MNT_DETACH)
		}
	})
	return mnt
}

func freeBytes(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// TestLocalFileSystem wants tmpfs to be taken for a local file system, and proc not.
func TestLocalFileSystem(t *testing.T) {
	if cache.LocalFS("/proc") {
		t.Error("/proc is taken for a disk")
	}
	var st unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &st); err == nil && uint32(st.Type) == unix.TMPFS_MAGIC && !cache.LocalFS("/dev/shm") {
		t.Error("tmpfs is not taken for local")
	}
}
