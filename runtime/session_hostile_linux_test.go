package runtime_test

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	hpcrun "hpcimg/runtime"
)

var ranks = flag.Int("ranks", 100, "how many processes start in a session at once")

// listen makes a socket with the name that guests of a session look for.
func listen(dir, key string) (int, error) {
	name := filepath.Join(dir, key+".sock")
	_ = os.Remove(name)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return -1, err
	}
	defer d.Close()
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s.sock", d.Fd(), key)}); err != nil {
		return -1, err
	}
	return fd, unix.Listen(fd, 10)
}

// holdLock is what a leader does first.
func holdLock(dir, key string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, key+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return f, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

func descriptors(t testing.TB) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	mustAll(t, err)
	return len(names)
}

// sharedPlan is a plan of a session in a new directory.
func sharedPlan(t testing.TB) (dir string, s *hpcrun.Session, p *hpcrun.Plan) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "session")
	s = openSession(t, dir)
	spec := hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Shared: true, Args: []string{"true"}, Env: []string{"PATH=/bin"}, Namespaces: hpcrun.Namespaces{User: true}}
	p, err := hpcrun.Compile(t.Context(), &spec)
	mustAll(t, err)
	t.Cleanup(func() { p.Close() })
	return dir, s, p
}

// TestSessionFalseLeader has something else than a leader answer: every start ends in bounded time with an error that says
// where, and takes nothing along.
func TestSessionFalseLeader(t *testing.T) {
	oracle.UserNS(t)
	null, err := os.Open("/dev/null")
	mustAll(t, err)
	defer null.Close()
	n := int(null.Fd())
	for _, test := range []struct {
		name   string
		answer func(conn int, key string) error
		want   string
	}{
		{"says nothing", func(int, string) error { time.Sleep(300 * time.Millisecond); return nil }, "does not answer"},
		{"hangs up", func(int, string) error { return nil }, "does not answer"},
		{"an empty message", func(conn int, _ string) error { return unix.Sendmsg(conn, nil, unix.UnixRights(n, n), nil, 0) }, "does not answer"},
		{"no descriptors", func(conn int, key string) error { return unix.Sendmsg(conn, []byte("\x03"+key), nil, nil, 0) }, "does not answer"},
		{"too few", func(conn int, key string) error {
			return unix.Sendmsg(conn, []byte("\x03"+key), unix.UnixRights(n), nil, 0)
		}, "does not answer"},
		{"too many", func(conn int, key string) error {
			return unix.Sendmsg(conn, []byte("\x03"+key), unix.UnixRights(n, n, n, n, n, n), nil, 0)
		}, "does not answer"},
		{"without a user namespace", func(conn int, key string) error {
			return unix.Sendmsg(conn, []byte("\x02"+key), unix.UnixRights(n), nil, 0)
		}, "does not answer"},
		{"no name", func(conn int, _ string) error { return unix.Sendmsg(conn, []byte{3}, unix.UnixRights(n, n), nil, 0) }, "does not answer"},
		{"half a name", func(conn int, key string) error {
			return unix.Sendmsg(conn, []byte("\x03"+key[:16]), unix.UnixRights(n, n), nil, 0)
		}, "does not answer"},
		{"another session's name", func(conn int, key string) error {
			return unix.Sendmsg(conn, []byte("\x03"+strings.Repeat("0", 2*len(key))), unix.UnixRights(n, n), nil, 0)
		}, "another session"},
		{"no namespaces", func(conn int, key string) error {
			return unix.Sendmsg(conn, []byte("\x03"+key), unix.UnixRights(n, n), nil, 0)
		}, "setns"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, s, p := sharedPlan(t)
			s.SetPatience(100 * time.Millisecond)
			key := s.KeyOf(p)
			lock, err := holdLock(dir, key)
			mustAll(t, err)
			defer lock.Close()
			socket, err := listen(dir, key)
			mustAll(t, err)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for {
					conn, _, err := unix.Accept4(socket, unix.SOCK_CLOEXEC)
					if err != nil {
						return
					}
					if err := test.answer(conn, key); err != nil && !errors.Is(err, unix.EPIPE) { // who asked has given up
						t.Error(err)
					}
					_ = unix.Close(conn)
				}
			}()
			before := descriptors(t)
			start := time.Now()
			_, err = p.Start(t.Context(), &hpcrun.StartOptions{Session: s})
			_, isSession := errors.AsType[*hpcrun.SessionError](err)
			_, isSetup := errors.AsType[*hpcrun.SetupError](err)
			if !isSession && !isSetup || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v", err)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("took %v", d)
			}
			_ = unix.Shutdown(socket, unix.SHUT_RDWR)
			<-ended
			_ = unix.Close(socket)
			eventually(t, "no more descriptors", func() bool { return descriptors(t) <= before-1 })
		})
	}
}

// TestSessionImpostor: a process that runs in an image has the same user and reaches the directory of the session. It takes the
// place of the leader's socket, to have others join namespaces that it has made.
func TestSessionImpostor(t *testing.T) {
	oracle.UserNS(t)
	dir, s, p := sharedPlan(t)
	s.SetPatience(time.Second)
	lock, err := holdLock(dir, s.KeyOf(p))
	mustAll(t, err)
	defer lock.Close()
	cmd := exec.Command("/proc/self/exe", dir, s.KeyOf(p))
	cmd.Env = []string{helpVar + "=impostor"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
	}
	stdout, err := cmd.StdoutPipe()
	mustAll(t, err, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	_, err = p.Start(t.Context(), &hpcrun.StartOptions{Session: s})
	if e, ok := errors.AsType[*hpcrun.SessionError](err); !ok || !errors.Is(err, fs.ErrPermission) || !strings.HasSuffix(e.Path, ".sock") {
		t.Errorf("got %v", err)
	}
}

// impostor is what TestSessionImpostor runs.
func impostor(dir, key string) int {
	socket, err := listen(dir, key)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	user, _ := os.Open("/proc/self/ns/user")
	mnt, _ := os.Open("/proc/self/ns/mnt")
	for {
		conn, _, err := unix.Accept4(socket, unix.SOCK_CLOEXEC)
		if err != nil {
			return 1
		}
		_ = unix.Sendmsg(conn, []byte("\x03"+key), unix.UnixRights(int(user.Fd()), int(mnt.Fd())), nil, 0)
	}
}

// TestSessionFiles plants what does not belong into the directory of a session.
func TestSessionFiles(t *testing.T) {
	oracle.UserNS(t)
	link := func(name string) error { return os.Symlink("/no/such/file", name) }
	for _, test := range []struct {
		name, suffix string
		plant        func(name string) error
		works        bool
	}{
		{"a socket of the dead", ".sock", func(name string) error {
			fd, err := listen(filepath.Dir(name), strings.TrimSuffix(filepath.Base(name), ".sock"))
			return errors.Join(err, unix.Close(fd))
		}, true},
		{"a lock of the dead", ".lock", func(name string) error { return os.WriteFile(name, []byte("junk"), 0o600) }, true},
		{"a file for a socket", ".sock", func(name string) error { return os.WriteFile(name, nil, 0o600) }, true},
		{"a link for a socket", ".sock", link, true},
		{"a directory for a socket", ".sock", func(name string) error { return os.Mkdir(name, 0o700) }, false},
		{"a link for a lock", ".lock", link, false},
		{"a directory for a lock", ".lock", func(name string) error { return os.Mkdir(name, 0o700) }, false},
		{"a pipe for a lock", ".lock", func(name string) error { return syscall.Mkfifo(name, 0o600) }, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, s, p := sharedPlan(t)
			s.SetPatience(time.Second)
			mustAll(t, test.plant(filepath.Join(dir, s.KeyOf(p)+test.suffix)))
			proc, err := p.Start(t.Context(), &hpcrun.StartOptions{Session: s})
			if test.works {
				mustAll(t, err)
				_, err := proc.Wait()
				mustAll(t, err)
				return
			}
			if e, ok := errors.AsType[*hpcrun.SessionError](err); !ok || !strings.HasPrefix(e.Path, dir) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestSessionLock: a lock that somebody holds who is no leader; one that is replaced while a leader has it.
func TestSessionLock(t *testing.T) {
	oracle.UserNS(t)
	dir, s, p := sharedPlan(t)
	s.SetPatience(200 * time.Millisecond)
	key := s.KeyOf(p)
	lock, err := holdLock(dir, key)
	mustAll(t, err)
	_, err = p.Start(t.Context(), &hpcrun.StartOptions{Session: s})
	if e, ok := errors.AsType[*hpcrun.SessionError](err); !ok || e.Path != filepath.Join(dir, key+".lock") || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("a lock that nobody leads by: %v", err)
	}
	// It is replaced: who comes now leads.
	mustAll(t, os.Remove(lock.Name()), os.WriteFile(lock.Name(), nil, 0o600))
	for range 2 {
		proc, err := p.Start(t.Context(), &hpcrun.StartOptions{Session: s})
		mustAll(t, err)
		_, err = proc.Wait()
		mustAll(t, err)
	}
	lock.Close()
}

// TestSessionTags: any string is a tag.
func TestSessionTags(t *testing.T) {
	oracle.UserNS(t)
	dir := filepath.Join(t.TempDir(), "session")
	for name, tag := range map[string]string{
		"slashes": "../../../etc/passwd", "NUL": "a\x00b", "long": strings.Repeat("x", 1<<20), "lines": "\n\r\t %s", "no UTF-8": "\xff\xfe", "a dot": ".",
	} {
		s, err := hpcrun.OpenSession(dir, tag)
		mustAll(t, err)
		spec := hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Shared: true, Args: []string{"sleep", "1000"}, Env: []string{"PATH=/bin"}, Namespaces: hpcrun.Namespaces{User: true}}
		leader := &hpcrun.Cmd{Spec: &spec, Session: s}
		mustAll(t, leader.Start(t.Context()))
		guest := spec
		guest.Args = sh("readlink /proc/self/ns/user /proc/self/ns/mnt")
		out, err := (&hpcrun.Cmd{Spec: &guest, Session: s}).Output(t.Context())
		if got, want := strings.Join(strings.Fields(string(out)), " "), namespacesOf(t, leader.Process.PID()); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", name, got, err, want)
		}
		if names, _ := filepath.Glob(dir + "/*"); len(names) != 3 { // lock, socket and alias
			t.Errorf("%s: %v", name, names)
		}
		mustAll(t, leader.Process.Kill())
		_ = leader.Wait()
		mustAll(t, s.Close())
	}
}

// TestSessionOfOthers: directories that are not this user's alone, or are none.
func TestSessionOfOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, mode := range []os.FileMode{0o750, 0o701, 0o777, 0o777 | os.ModeSticky} {
		name := fmt.Sprintf("%s/%#o", dir, mode)
		mustAll(t, os.Mkdir(name, 0o700), os.Chmod(name, mode))
		if _, err := hpcrun.OpenSession(name, "x"); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	mustAll(t, os.Mkdir(dir+"/own", 0o700), os.Symlink("own", dir+"/link"), syscall.Mkfifo(dir+"/pipe", 0o600))
	for _, name := range []string{"link", "pipe"} {
		_, err := hpcrun.OpenSession(dir+"/"+name, "x")
		if e, ok := errors.AsType[*hpcrun.SessionError](err); !ok || e.Path != dir+"/"+name {
			t.Errorf("%s: %v", name, err)
		}
	}
	oracle.Root(t)
	mustAll(t, os.Mkdir(dir+"/theirs", 0o700), os.Chown(dir+"/theirs", 65533, 65533))
	if _, err := hpcrun.OpenSession(dir+"/theirs", "x"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("another user's: %v", err)
	}
}

// rank starts a process that runs sleep in a session.
func rank(t testing.TB, spec hpcrun.Spec, dir, mark string) (*exec.Cmd, io.Reader) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", spec.Image.Path, string(spec.Image.Backend))
	cmd.Env = []string{helpVar + "=1", "PATH=" + os.Getenv("PATH"), sessionVar + "=" + dir, "HPCIMG_FUSE=" + spec.Image.FUSEDevice, userVar + "=1", mark}
	stdout, err := cmd.StdoutPipe()
	mustAll(t, err, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, stdout
}

// pidOf is the number of the command that a rank has started; an error if it has said anything else.
func pidOf(r io.Reader) (pid int, err error) {
	line, err := bufio.NewReader(r).ReadString('\n')
	if _, scanErr := fmt.Sscanf(line, "pid %d\n", &pid); scanErr != nil {
		return 0, fmt.Errorf("%q, %w", line, errors.Join(err, scanErr))
	}
	return pid, nil
}

// eachShared runs a test with the backends whose mounts ordinary users share.
func eachShared(t *testing.T, test func(t *testing.T, spec hpcrun.Spec)) {
	for _, b := range backends(t) {
		if !slices.Contains([]string{"directory in user namespace", "fuse in user namespace", "squashfuse in user namespace"}, b.name) {
			continue
		}
		t.Run(b.name, func(t *testing.T) {
			b.need(t)
			spec := hpcrun.Spec{Image: b.image}
			test(t, spec)
		})
	}
}

// TestSessionRanks starts many processes at once: all end up in the same namespaces.
func TestSessionRanks(t *testing.T) {
	many := *ranks
	if selection() {
		many = min(many, 16)
	}
	eachShared(t, func(t *testing.T, spec hpcrun.Spec) {
		dir := filepath.Join(t.TempDir(), "session")
		outs := make([]io.Reader, many)
		for i := range outs {
			_, outs[i] = rank(t, spec, dir, "A=1")
		}
		same := make(map[string]int)
		for _, r := range outs {
			pid, err := pidOf(r)
			mustAll(t, err)
			same[namespacesOf(t, pid)]++
		}
		if len(same) != 1 {
			t.Errorf("%d ranks are in %v", many, same)
		}
	})
}

// TestLeaderKilledInJoin kills the leader while others are about to join: each of them gets to run its command, or an error.
func TestLeaderKilledInJoin(t *testing.T) {
	rounds := max(1, *killRounds)
	if selection() {
		rounds = min(rounds, 4)
	}
	eachShared(t, func(t *testing.T, spec hpcrun.Spec) {
		mark := "HPCIMG_TEST_MARK=" + t.Name()
		ran, failed := 0, 0
		for range rounds {
			dir := filepath.Join(t.TempDir(), "session")
			leader, out := rank(t, spec, dir, mark)
			_, err := pidOf(out)
			mustAll(t, err)
			var guests []*exec.Cmd
			var outs []io.Reader
			for range 3 {
				guest, out := rank(t, spec, dir, mark)
				guests, outs = append(guests, guest), append(outs, out)
			}
			time.Sleep(rand.N(30 * time.Millisecond))
			_ = leader.Process.Kill()
			for _, out := range outs {
				said := make(chan error, 1)
				go func() {
					_, err := pidOf(out)
					said <- err
				}()
				select {
				case err := <-said:
					if err == nil {
						ran++
					} else if failed++; !strings.Contains(err.Error(), "runtime: ") {
						t.Errorf("a guest says %v", err)
					}
				case <-time.After(20 * time.Second):
					t.Error("a guest neither runs its command nor says why")
				}
			}
			for _, cmd := range append(guests, leader) {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}
			if t.Failed() {
				break
			}
		}
		eventually(t, "all processes ended", func() bool { return len(marked(mark)) == 0 })
		t.Logf("%d guests ran, %d had an error", ran, failed)
	})
}

// TestSessionStay has members leave processes behind, which still look at the image when all who could serve it have ended:
// they get an error, and wait for nothing.
func TestSessionStay(t *testing.T) {
	eachShared(t, func(t *testing.T, image hpcrun.Spec) {
		dir := t.TempDir()
		s := openSession(t, dir+"/session")
		mustAll(t, os.Mkdir(dir+"/out", 0o755))
		spec := hpcrun.Spec{
			Image: image.Image, Shared: true, Env: []string{"PATH=/bin"}, Namespaces: hpcrun.Namespaces{User: true}, Binds: []hpcrun.Bind{{Source: dir + "/out", Target: "/mnt/out"}},
			Args: sh(`exec 3<&0; (read -r line; cat /opt/text; echo $? >/mnt/out/$1) <&3 >/dev/null 2>&1 & exit 0`),
		}
		r, w, err := os.Pipe()
		mustAll(t, err)
		defer w.Close()
		for i := range 2 {
			spec.Args = append(spec.Args[:4:4], fmt.Sprint(i))
			out, err := (&hpcrun.Cmd{Spec: &spec, Session: s, Stdin: r}).CombinedOutput(t.Context())
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		mustAll(t, s.Close(), r.Close(), w.Close())
		eventually(t, "both have looked", func() bool {
			names, _ := filepath.Glob(dir + "/out/*")
			return len(names) == 2
		})
	})
}
