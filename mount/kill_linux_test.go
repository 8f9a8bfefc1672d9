package mount_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	"hpcimg/mount"
)

var killRounds = flag.Int("kill-rounds", 200, "how often TestKill kills a server")

// helperVar makes this test program something else: a server of an image, or what prepares one for an ordinary user.
const helperVar = "HPCIMG_MOUNT_HELPER"

func TestMain(m *testing.M) {
	var err error
	switch mode, rest, _ := strings.Cut(os.Getenv(helperVar), " "); mode {
	case "":
		os.Exit(m.Run())
	case "serve":
		err = helperServe(strings.Fields(rest))
	case "namespace":
		err = helperNamespace(strings.Fields(rest))
	case "probe":
		err = helperProbe(rest)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// helperServe mounts an image and serves it.
func helperServe(args []string) error {
	s, err := mount.Fuse(context.Background(), args[0], args[1], nil)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return s.Wait()
}

func helper(mode string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperVar+"="+mode+" "+strings.Join(args, " "))
	cmd.Stderr = os.Stderr
	return cmd
}

// TestKill kills servers at random moments, from before they have mounted to under load. The readers get an error that says so,
// the owner removes what is left of the mount, and nothing else is left.
func TestKill(t *testing.T) {
	oracle.Root(t)
	image := writeImage(t, sample(), nil)
	dir := t.TempDir()
	rounds := *killRounds
	if testing.Short() {
		rounds = min(rounds, 25)
	}
	before := openFiles(t)
	var live int
	for range rounds {
		if killOnce(t, image, dir) {
			live++
		}
		if t.Failed() {
			break
		}
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d open files, %d before", after, before)
	}
	t.Logf("%d of %d servers had mounted", live, rounds)
	if live == 0 && rounds >= 25 {
		t.Error("no server came so far as to mount")
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// killOnce reports whether there was a mount when the server died.
func killOnce(t *testing.T, image, dir string) bool {
	t.Helper()
	server := helper("serve", image, dir)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for _, name := range []string{"a/big", "a/noise", "many"} {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := readAll(filepath.Join(dir, name)); err != nil && !expected(err) {
					t.Errorf("%s: %v", name, err)
					return
				}
			}
		})
	}
	time.Sleep(time.Duration(rand.Int64N(int64(25 * time.Millisecond))))
	if err := server.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = server.Wait()
	live := mounted(t, dir)
	if live {
		if _, err := os.ReadDir(dir); !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("without a server: %v", err)
		}
		if err := mount.Unmount(dir); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	readers.Wait()
	if mounted(t, dir) {
		t.Error("still mounted")
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
	return live
}

// expected reports whether a reader may see err of a mount whose server comes and goes. A reader that has the end of the
// connection happen to its request gets ECONNABORTED, later ones ENOTCONN, or ECONNREFUSED if the server had not even said
// hello; pages that were being read fail with EIO.
func expected(err error) bool {
	for _, want := range []error{unix.ENOTCONN, unix.ECONNABORTED, unix.ECONNREFUSED, unix.EIO, fs.ErrNotExist} {
		if errors.Is(err, want) {
			return true
		}
	}
	return false
}

// readAll gets what the kernel says: a file that package os has opened is in a poller, which says of one whose connection has ended that
// it is "not pollable".
func readAll(name string) error {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if strings.HasSuffix(name, "many") {
		_, err = f.Readdirnames(-1)
		return err
	}
	_, err = io.Copy(io.Discard, f)
	return err
}

// TestFuseUser mounts as an ordinary user through fusermount3, in a mount namespace where /dev/fuse is open to all, kills the
// server, and has the helper clean up.
func TestFuseUser(t *testing.T) {
	oracle.Root(t)
	oracle.Tool(t, "fusermount3")
	device := oracle.FUSE(t)
	user := oracle.UserDir(t)
	image := filepath.Join(user, "image")
	data, err := os.ReadFile(writeImage(t, sample(), nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, data, 0o644); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(user, "program") // the test's own directory is closed to the user
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(user, "target")
	uid, gid := oracle.User(t)
	if err := errors.Join(os.Mkdir(target, 0o755), os.Chown(target, uid, gid)); err != nil {
		t.Fatal(err)
	}
	cmd := helper("namespace", device, program, image, target, fmt.Sprint(uid), fmt.Sprint(gid))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if out, err := cmd.Output(); err != nil || string(out) != "ok\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// helperNamespace runs as root in a mount namespace of its own: it opens /dev/fuse to the user, has a server run as the user,
// once until the user unmounts and once until it is killed, and looks at what is left.
func helperNamespace(args []string) error {
	device, program, image, target := args[0], args[1], args[2], args[3]
	var uid, gid uint32
	if _, err := fmt.Sscan(args[4]+" "+args[5], &uid, &gid); err != nil {
		return err
	}
	// fusermount3 asks who the user is.
	passwd := filepath.Join(filepath.Dir(target), "passwd")
	line := fmt.Sprintf("somebody:x:%d:%d::/:/bin/sh\n", uid, gid)
	if err := os.WriteFile(passwd, []byte(line), 0o644); err != nil {
		return err
	}
	for file, over := range map[string]string{device: "/dev/fuse", passwd: "/etc/passwd"} {
		if err := unix.Mount(file, over, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind over %s: %w", over, err)
		}
	}
	as := func(cmd *exec.Cmd) *exec.Cmd {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
		cmd.Dir = "/"
		return cmd
	}
	probe := as(helper("probe"))
	probe.Path = program
	probe.Env = append(probe.Env, "TMPDIR="+filepath.Dir(target))
	if out, err := probe.Output(); err != nil || !strings.Contains(string(out), "fusermount3: true  \n") {
		return fmt.Errorf("the user's probe says %q, %w", out, err)
	}
	if left, err := filepath.Glob(filepath.Dir(target) + "/hpcimg-mount-*"); err != nil || len(left) > 0 {
		return fmt.Errorf("the probe has left %q, %w", left, err)
	}
	for _, end := range []string{"unmount", "kill"} {
		server := as(helper("serve", image, target))
		server.Path = program
		out, err := server.StdoutPipe()
		if err != nil {
			return err
		}
		if err := server.Start(); err != nil {
			return err
		}
		if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
			return fmt.Errorf("the server is not ready: %w", errors.Join(err, server.Wait()))
		}
		data, err := as(exec.Command("cat", target+"/a/hard", target+"/a/attrs")).CombinedOutput()
		if end == "unmount" && string(data) != "x" && !strings.Contains(string(data), "denied") {
			return fmt.Errorf("the user reads %q, %w", data, err)
		}
		if end == "kill" {
			_ = server.Process.Kill()
			_ = server.Wait()
		} else {
			if out, err := as(exec.Command("fusermount3", "-u", target)).CombinedOutput(); err != nil {
				return fmt.Errorf("fusermount3 -u: %w: %s", err, out)
			}
			if err := server.Wait(); err != nil {
				return fmt.Errorf("unmounted: %w", err)
			}
		}
		for tries := 0; ; tries++ {
			table, err := os.ReadFile("/proc/self/mounts")
			if err != nil {
				return err
			}
			if !strings.Contains(string(table), " "+target+" ") {
				break
			}
			if tries == 300 {
				return fmt.Errorf("after %s the mount is still there", end)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	fmt.Println("ok")
	return nil
}
