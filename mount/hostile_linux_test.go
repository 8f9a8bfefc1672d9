package mount_test

import (
	"errors"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"hpcimg/mount"
)

// oddTree has what kernels do not take: targets of symbolic links that are too long, and errors that are none.
type oddTree struct {
	mount.Tree
	target string
	err    error
}

func (o *oddTree) Readlink(mount.NodeID) (string, error) { return o.target, nil }

func (o *oddTree) Xattrs(mount.NodeID) (map[string]string, error) { return nil, o.err }

// TestServeOdd asks again and again for what the kernel refuses as an answer: the server has to outlive it.
func TestServeOdd(t *testing.T) {
	r := openImage(t, writeImage(t, sample(), nil))
	odd := &oddTree{mount.NewTree(r, nil), strings.Repeat("x", 4096), syscall.Errno(600)}
	var mu sync.Mutex
	told := 0
	dir, _ := serve(t, odd, &mount.ServeOptions{Threads: 2, OnError: func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if e, ok := errors.AsType[*mount.ServeError](err); ok && (e.Op == "readlink" || e.Op == "xattr") {
			told++
		}
	}})
	for range 10 {
		if _, err := os.Readlink(dir + "/a/link"); !errors.Is(err, unix.EIO) {
			t.Fatalf("a target of 4096 bytes: %v", err)
		}
		if _, err := unix.Lgetxattr(dir+"/a/one", "user.one", make([]byte, 10)); !errors.Is(err, unix.EIO) {
			t.Fatalf("an error that the kernel does not know: %v", err)
		}
	}
	if data, err := os.ReadFile(dir + "/a/one"); string(data) != "1" {
		t.Errorf("%q, %v", data, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if told != 20 {
		t.Errorf("told of %d errors", told)
	}
}
