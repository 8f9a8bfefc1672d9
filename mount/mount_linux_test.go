package mount_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	"hpcimg/mount"
	"hpcimg/squashfs"
)

// imageAt makes a file with an image at an offset, and returns its path and the size of the image.
func imageAt(t *testing.T, offset int64) (path string, size int64) {
	t.Helper()
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	err := squashfs.Create(t.Context(), plain, nil, func(ctx context.Context, w *squashfs.Writer) error {
		return w.Add(ctx, squashfs.Entry{Path: "hello", Mode: 0o644, Size: 6}, strings.NewReader("world\n"))
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "image")
	file := append(append(make([]byte, offset), data...), "something after it, as signatures are"...)
	if err := os.WriteFile(path, file, 0o644); err != nil {
		t.Fatal(err)
	}
	return path, int64(len(data))
}

// backing says whether a loop device shows the file.
func backing(file string) bool {
	names, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, name := range names {
		if data, err := os.ReadFile(name); err == nil && string(bytes.TrimSpace(data)) == file {
			return true
		}
	}
	return false
}

func goes(t *testing.T, image string) {
	t.Helper()
	for range 500 {
		if !backing(image) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("a loop device still shows %s", image)
}

func TestSquashfs(t *testing.T) {
	t.Parallel()
	oracle.Root(t)
	for _, offset := range []int64{0, 512, 40960} {
		image, size := imageAt(t, offset)
		target := t.TempDir()
		if err := mount.Squashfs(t.Context(), image, target, &mount.Options{Offset: offset, Size: size}); err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(target + "/hello"); string(data) != "world\n" {
			t.Errorf("offset %d: %q, %v", offset, data, err)
		}
		if err := os.WriteFile(target+"/x", nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("write: %v", err)
		}
		var st unix.Statfs_t
		if err := unix.Statfs(target, &st); err != nil || st.Flags&(unix.ST_NOSUID|unix.ST_NODEV|unix.ST_RDONLY) != unix.ST_NOSUID|unix.ST_NODEV|unix.ST_RDONLY {
			t.Errorf("flags %x, %v", st.Flags, err)
		}
		if err := mount.Unmount(target); err != nil {
			t.Error(err)
		}
		goes(t, image)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	image, size := imageAt(t, 0)
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, make([]byte, 8192), 0o644); err != nil {
		t.Fatal(err)
	}
	target := t.TempDir()
	for name, o := range map[string]mount.Options{
		"misaligned": {Offset: 1}, "negative": {Offset: -512}, "beyond": {Offset: 1 << 30}, "too long": {Size: 1 << 40}, "negative size": {Size: -1},
		"overflow": {Offset: 512, Size: 1<<63 - 1}, "within a sector": {Offset: 512 * (size / 512)},
	} {
		err := mount.Squashfs(t.Context(), image, target, &o)
		if e, ok := errors.AsType[*mount.Error](err); !ok || !errors.Is(err, fs.ErrInvalid) || e.Target != target || len(e.Attempts) != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := mount.Squashfs(t.Context(), image+"absent", target, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	if err := mount.Squashfs(t.Context(), "/dev/null", target, nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("device: %v", err)
	}
	if err := mount.Unmount(target); err == nil {
		t.Error("unmounted what is not mounted")
	}
	if os.Geteuid() != 0 {
		err := mount.Squashfs(t.Context(), junk, target, nil)
		if _, ok := errors.AsType[*mount.Error](err); !ok || !errors.Is(err, fs.ErrPermission) {
			t.Errorf("ordinary user: %v", err)
		}
		return
	}
	err := mount.Squashfs(t.Context(), junk, target, nil)
	pathErr, ok := errors.AsType[*fs.PathError](err)
	if !ok || pathErr.Op != "mount" || pathErr.Path != target || !errors.Is(err, unix.EINVAL) {
		t.Errorf("no image: %v", err)
	}
	goes(t, junk)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := mount.Squashfs(ctx, image, target, &mount.Options{Size: size}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestLoopRace takes many devices at a time; each must be its own.
func TestLoopRace(t *testing.T) {
	t.Parallel()
	oracle.Root(t)
	image, _ := imageAt(t, 0)
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var mu sync.Mutex
	paths := make(map[string]bool)
	var wg sync.WaitGroup
	devices := make(chan *mount.LoopDevice, 12)
	for range cap(devices) {
		wg.Go(func() {
			d, err := mount.Loop(t.Context(), f, &mount.Options{Size: 4096})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if paths[d.Path()] {
				t.Errorf("%s twice", d.Path())
			}
			paths[d.Path()] = true
			devices <- d
		})
	}
	wg.Wait()
	close(devices)
	for d := range devices {
		head := make([]byte, 4)
		if _, err := d.File().ReadAt(head, 0); err != nil || string(head) != "hsqs" {
			t.Errorf("%s: %q, %v", d.Path(), head, err)
		}
		d.Close()
	}
	goes(t, image)
}

func TestProbe(t *testing.T) {
	t.Parallel()
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	r, err := mount.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + r.String())
	for _, c := range r.Checks {
		if !c.OK && (c.Reason == "" || c.Remedy == "") {
			t.Errorf("%s fails without a reason or a remedy", c.Name)
		}
		if c.OK && c.Reason != "" {
			t.Errorf("%s works, but %s", c.Name, c.Reason)
		}
	}
	if os.Geteuid() != 0 && (r.Has(mount.CheckRoot) || r.Has(mount.CheckKernelSquashfs)) {
		t.Error("an ordinary user mounts as root does")
	}
	if c := r.Lookup("no such check"); c.OK || c.Reason == "" {
		t.Errorf("unknown check: %+v", c)
	}
	oracle.UserNS(t) // in which case the probe has to agree:
	if !r.Has(mount.CheckUserNS) || !r.Has(mount.CheckRun) {
		t.Error("user namespaces work, and the probe says they do not")
	}
	after, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(after), "probe") && !bytes.Equal(before, after) {
		t.Errorf("mounts before and after:\n%s\n%s", before, after)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := mount.Probe(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func ExampleProbe() {
	r, err := mount.Probe(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	if !r.Has(mount.CheckRun) {
		fmt.Println(r.Lookup(mount.CheckRun).Remedy)
		return
	}
	fmt.Println("images can be run")
	// Output: images can be run
}

func ExampleSquashfs() {
	err := mount.Squashfs(context.Background(), "/dev/null", "/mnt", nil)
	fmt.Println(err)
	// Output: mount: nothing mounts the image at /mnt: kernel: loop /dev/null: not a regular file: invalid argument
}

func ExampleUnmount() {
	fmt.Println(mount.Unmount("/no/such/mount"))
	// Output: umount /no/such/mount: no such file or directory
}

func ExampleLoop() {
	f, err := os.Open("/dev/null")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	_, err = mount.Loop(context.Background(), f, nil)
	fmt.Println(err)
	// Output: loop /dev/null: not a regular file: invalid argument
}
