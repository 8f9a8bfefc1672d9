package mount_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fstestx"
	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/mount"
	"hpcimg/squashfs"
)

// serve mounts a tree, as root in the initial namespaces, and returns the directory.
func serve(t testing.TB, tree mount.Tree, o *mount.ServeOptions) (string, *mount.Server) {
	t.Helper()
	oracle.Root(t)
	device := oracle.FUSE(t)
	dir := t.TempDir()
	dev, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("test", dir, "fuse", flags, mount.FuseData(int(dev.Fd()), 0, 0)); err != nil {
		t.Fatal(err)
	}
	s, err := mount.Serve(dev, tree, o)
	if err != nil {
		t.Fatal(err)
	}
	settle(t, dir)
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Errorf("unmounting: %v", err)
		}
		ended := make(chan error, 1)
		go func() { ended <- s.Wait() }()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the server goes on without the mount")
			_ = s.Close()
		}
	})
	return dir, s
}

// settle makes the kernel ask whether files can be polled, so that package os does not, see the contract of Serve.
func settle(t testing.TB, dir string) {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error { // reads directories, opens no other file
		if err == nil && d.Type().IsRegular() {
			names = append(names, name)
			return filepath.SkipAll
		}
		return err
	})
	if err != nil || len(names) == 0 {
		t.Fatal("no file to settle with", err)
	}
	fd, err := unix.Open(names[0], unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); err != nil {
		t.Fatal(err)
	}
}

// TestServe runs one suite over our server with small and large blocks.
func TestServe(t *testing.T) {
	oracle.Root(t)
	for name, o := range map[string]*squashfs.WriterOptions{
		"block=4096": {BlockSize: 4096}, "block=131072": nil, "block=1048576": {BlockSize: 1 << 20, Compression: squashfs.CompressionZstd},
	} {
		t.Run(name, func(t *testing.T) {
			r := openImage(t, writeImage(t, sample(), o))
			dir, _ := serve(t, mount.NewTree(r, nil), &mount.ServeOptions{OnError: func(err error) { t.Error(err) }})
			got, err := testtree.Walk(dir)
			if err != nil {
				t.Fatal(err)
			}
			if diff := testtree.Diff(sample().Listing(), got, nil); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			fstestx.Test(t, os.DirFS(dir), sample().Listing(), &fstestx.Options{Mounted: true})
		})
	}
}

// TestServeClose ends a server under a mount that is in use.
func TestServeClose(t *testing.T) {
	r := openImage(t, writeImage(t, sample(), nil))
	dir, s := serve(t, mount.NewTree(r, nil), nil)
	f, err := os.Open(dir + "/a/big")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := errors.Join(s.Close(), s.Close(), s.Wait()); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("closing took %v", d)
	}
	if _, err := os.ReadDir(dir + "/lots"); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("after the end of the server: %v", err)
	}
	if _, err := f.ReadAt(make([]byte, 10), 2_500_000); err == nil {
		t.Error("read without a server")
	}
}

// TestServeBeforeMount starts the server before there is a mount.
func TestServeBeforeMount(t *testing.T) {
	oracle.Root(t)
	r := openImage(t, writeImage(t, sample(), nil))
	dev, err := os.OpenFile(oracle.FUSE(t), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(dev.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s, err := mount.Serve(dev, mount.NewTree(r, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	dir := t.TempDir()
	err = unix.Mount("test", dir, "fuse", unix.MS_RDONLY, mount.FuseData(fd, 0, 0))
	_ = unix.Close(fd)
	if err != nil {
		t.Fatal(err)
	}
	settle(t, dir)
	if data, err := os.ReadFile(dir + "/a/one"); string(data) != "1" {
		t.Errorf("%q, %v", data, err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
}

// TestServeDamage reads a file with a block that does not decode: EIO for the reader, the place of the block for the caller, and
// all else as before.
func TestServeDamage(t *testing.T) {
	image := writeImage(t, sample(), nil)
	block := firstBlock(t, image, "a/big", 5)
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xff}, 64), block); err != nil {
		t.Fatal(err)
	}
	f.Close()
	var mu sync.Mutex
	var told []error
	dir, _ := serve(t, mount.NewTree(openImage(t, image), nil), &mount.ServeOptions{OnError: func(err error) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, err)
	}})
	if _, err := io.Copy(io.Discard, mustOpen(t, dir+"/a/big")); !errors.Is(err, unix.EIO) {
		t.Errorf("damaged file: %v", err)
	}
	if data, err := os.ReadFile(dir + "/a/noise"); err != nil || !bytes.Equal(data, testtree.Bytes(1, 300_001)) {
		t.Errorf("another file: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(told) == 0 {
		t.Fatal("nobody was told")
	}
	e, ok := errors.AsType[*mount.ServeError](told[0])
	damage, isFormat := errors.AsType[*squashfs.FormatError](told[0])
	if !ok || !isFormat || e.Op != "read" || damage.Offset != block || damage.Structure != "data block" {
		t.Errorf("told %v, want the block at %#x", told[0], block)
	}
}

// TestServeSlowSource has a block that does not come: what lies elsewhere is read meanwhile.
func TestServeSlowSource(t *testing.T) {
	image := writeImage(t, sample(), nil)
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	block := firstBlock(t, image, "a/big", 0)
	source := &heldSource{ReaderAt: f, hold: func(off int64) bool { return off == block }, asked: make(chan struct{}), let: make(chan struct{})}
	r, err := squashfs.NewReader(source, info.Size(), nil)
	if err != nil {
		t.Fatal(err)
	}
	dir, _ := serve(t, mount.NewTree(r, nil), nil)
	slow := make(chan []byte, 1)
	go func() {
		data, _ := os.ReadFile(dir + "/a/big")
		slow <- data
	}()
	<-source.asked
	others := make(chan error, 1)
	go func() {
		_, statErr := os.Lstat(dir + "/a/attrs")
		data, err := os.ReadFile(dir + "/a/noise")
		if !bytes.Equal(data, testtree.Bytes(1, 300_001)) {
			err = errors.Join(err, errors.New("another file has other contents"))
		}
		others <- errors.Join(statErr, err)
	}()
	select {
	case err := <-others:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("everybody waits for one block")
	}
	close(source.let)
	if data := <-slow; !bytes.Equal(data, testtree.Text(1, 3_000_000)) {
		t.Error("the file whose block was late has other contents")
	}
}

// TestServeSlowTables has a part of a directory that does not come: what needs nothing of the image is answered meanwhile.
func TestServeSlowTables(t *testing.T) {
	tree := sample()
	for i := range 20_000 {
		tree = append(tree, testtree.File(fmt.Sprintf("lots/%x-%d", i*7919%65536, i), 0o644, ""))
	}
	image := writeImage(t, tree, nil)
	f := mustOpen(t, image)
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var stall atomic.Bool // the next read, and no other
	source := &heldSource{
		ReaderAt: f, hold: func(int64) bool { return stall.CompareAndSwap(true, false) }, asked: make(chan struct{}), let: make(chan struct{}),
	}
	r, err := squashfs.NewReader(source, info.Size(), nil)
	if err != nil {
		t.Fatal(err)
	}
	dir, _ := serve(t, mount.NewTree(r, nil), nil)
	time.Sleep(time.Second) // by now, nobody watches
	stall.Store(true)
	slow := make(chan int, 1)
	go func() {
		names, _ := os.ReadDir(dir + "/lots")
		slow <- len(names)
	}()
	<-source.asked
	other := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		other <- unix.Statfs(dir, &st)
	}()
	select {
	case err := <-other:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("everybody waits for one directory")
	}
	close(source.let)
	if n := <-slow; n != 20_000 {
		t.Errorf("the directory that was late has %d entries", n)
	}
}

// heldSource does not read what hold says before it is let.
type heldSource struct {
	io.ReaderAt
	hold  func(off int64) bool
	once  sync.Once
	asked chan struct{}
	let   chan struct{}
}

func (s *heldSource) ReadAt(p []byte, off int64) (int, error) {
	if s.hold(off) {
		s.once.Do(func() { close(s.asked) })
		<-s.let
	}
	return s.ReaderAt.ReadAt(p, off)
}

func mustOpen(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// firstBlock returns where block i of a file lies.
func firstBlock(t *testing.T, image, name string, i int64) int64 {
	t.Helper()
	info, err := openImage(t, image).Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]squashfs.Block
	if _, err := info.Sys().(*squashfs.Inode).BlocksAt(b[:], i); err != nil {
		t.Fatal(err)
	}
	return b[0].Offset
}
