package runtime_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	hpcrun "hpcimg/runtime"
)

func TestRun(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		spec.Args = sh(`cat /etc/marker; id -u; id -un; echo "$1 $X"; echo err >&2; touch /x 2>/dev/null || echo read-only; test -d /proc/self -a -d /sys/class -a -c /dev/null && echo system`, "arg")
		spec.Env = append(spec.Env, "X=with space\nand newline")
		spec.User = &hpcrun.User{Name: "somebody", UID: os.Geteuid(), GID: os.Getegid(), Home: "/"}
		want := fmt.Sprintf("image\n%d\nsomebody\narg with space\nand newline\nerr\nread-only\nsystem\n", os.Geteuid())
		if got := mustOutput(t, spec); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		for _, test := range []struct {
			args []string
			want int
			is   error
		}{
			{sh("exit 0"), 0, nil},
			{sh("exit 7"), 7, nil},
			{sh("kill -TERM $$"), 128 + 15, nil},
			{[]string{"no-such-program"}, hpcrun.ExitNotFound, fs.ErrNotExist},
			{[]string{"/no/such/program"}, hpcrun.ExitNotFound, fs.ErrNotExist},
			{[]string{"/opt/text"}, hpcrun.ExitNotExecutable, fs.ErrPermission},
			{[]string{"/opt/deep"}, hpcrun.ExitNotExecutable, fs.ErrPermission},
			{[]string{"/opt/script"}, hpcrun.ExitNotFound, fs.ErrNotExist},
		} {
			spec.Args = test.args
			_, err := output(t, spec)
			if got := hpcrun.ExitCode(err); got != test.want || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%v: %d, %v; want %d, %v", test.args, got, err, test.want, test.is)
			}
			var e *hpcrun.SetupError
			if errors.As(err, &e) != (test.is != nil) || e != nil && !e.Exec {
				t.Errorf("%v: error %#v", test.args, err)
			}
		}
	})
}

// TestSetupError makes a call in the middle fail: what was there when the plan was made is gone when it runs.
func TestSetupError(t *testing.T) {
	t.Parallel()
	namespaces(t)
	gone := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(gone, 0o755); err != nil {
		t.Fatal(err)
	}
	plan, err := hpcrun.Compile(t.Context(), &hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Args: []string{"true"}, Binds: []hpcrun.Bind{{Source: gone, Target: "/mnt/x"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	_, err = plan.Start(t.Context(), nil)
	e, ok := errors.AsType[*hpcrun.SetupError](err)
	pathErr, _ := errors.AsType[*fs.PathError](err)
	if !ok || e.Exec || pathErr == nil || pathErr.Path != gone || pathErr.Op != "open_tree" || !errors.Is(err, fs.ErrNotExist) || hpcrun.ExitCode(err) != hpcrun.ExitSetup {
		t.Errorf("got %v", err)
	}
}

func TestImageChanged(t *testing.T) {
	t.Parallel()
	namespaces(t)
	data, err := os.ReadFile(imageFile())
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image")
	write := func() {
		if err := errors.Join(os.WriteFile(image+".new", data, 0o644), os.Rename(image+".new", image)); err != nil {
			t.Fatal(err)
		}
	}
	write()
	plan, err := hpcrun.Compile(t.Context(), &hpcrun.Spec{Image: hpcrun.Image{Path: image, Backend: hpcrun.BackendExtract}, Args: []string{"true"}})
	if err != nil {
		t.Fatal(err)
	}
	write()
	if _, err := plan.Start(t.Context(), nil); !errors.Is(err, hpcrun.ErrImageChanged) {
		t.Errorf("got %v", err)
	}
}

func TestPrivileges(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		spec.Args = []string{"cat", "/proc/self/status"}
		status := mustOutput(t, spec)
		want := []string{"NoNewPrivs:\t1", "SigBlk:\t0000000000000000"}
		if spec.Namespaces.User || os.Geteuid() != 0 {
			want = append(want, "CapAmb:\t0000000000000000", "CapInh:\t0000000000000000")
			if os.Geteuid() != 0 {
				want = append(want, "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000")
			}
		}
		for _, line := range want {
			if !strings.Contains(status, line+"\n") {
				t.Errorf("no %q in\n%s", line, status)
			}
		}
	})
}

func TestFakeroot(t *testing.T) {
	t.Parallel()
	oracle.UserNS(t)
	spec := hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Args: sh("id -u; id -g; id -un; cat /proc/self/uid_map"), Identity: hpcrun.IdentityRoot, Namespaces: hpcrun.Namespaces{User: true}}
	want := fmt.Sprintf("0 0 root 0 %d 1", os.Geteuid())
	if got := strings.Join(strings.Fields(mustOutput(t, spec)), " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestDescriptors: nothing that the process has open gets into the image, but for what it means to pass on, under the
// same number.
func TestDescriptors(t *testing.T) {
	t.Parallel()
	secret, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	const number = 77
	if err := syscall.Dup3(int(secret.Fd()), number, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		secret.Close()
		syscall.Close(number)
	})
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		spec.Args = sh(`ls -l /proc/$$/fd; true`)
		out := mustOutput(t, spec)
		kept := false
		for line := range strings.Lines(out) {
			name, target, _ := strings.Cut(strings.TrimSpace(line), " -> ")
			n := name[strings.LastIndexByte(name, ' ')+1:]
			kept = kept || n == strconv.Itoa(number)
			if fd, err := strconv.Atoi(n); err == nil && fd > 2 && fd != number && inherited(fd) != target {
				t.Errorf("descriptor %s is %s", n, target)
			}
		}
		if !kept {
			t.Errorf("descriptor %d was not passed on:\n%s", number, out)
		}
	})
}

// inherited is what the test's own process has as descriptor fd for its children.
func inherited(fd int) string {
	target, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return target
}

func TestBinds(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		dir := t.TempDir()
		for name, data := range map[string]string{"rw/f": "rw", "ro/f": "ro", "file": "file"} {
			if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(data+"\n"), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		spec.Binds = []hpcrun.Bind{
			{Source: dir + "/rw", Target: "/data/rw"},
			{Source: dir + "/ro", Target: "/data/ro", ReadOnly: true},
			{Source: dir + "/file", Target: "/etc/marker", ReadOnly: true},
			{Source: dir + "/file", Target: "/new/deep/file"},
			{Source: dir + "/ro", Target: "/opt/abs/through/link"},
			{Source: dir + "/rw", Target: "/opt/up/escaped"},
			{Source: dir + "/absent", Target: "/absent", Optional: true},
		}
		spec.Args = sh(`cat /data/rw/f /data/ro/f /etc/marker /new/deep/file /opt/deep/through/link/f /escaped/f
			echo changed >/data/rw/f; (echo x >/data/ro/f) 2>/dev/null || echo refused; test -e /absent || echo absent; cat /opt/text`)
		want := "rw\nro\nfile\nfile\nro\nrw\nrefused\nabsent\nno program\n"
		if got := mustOutput(t, spec); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if data, _ := os.ReadFile(dir + "/rw/f"); string(data) != "changed\n" {
			t.Errorf("written: %q", data)
		}
		if _, err := os.Stat("/escaped"); err == nil {
			t.Error("a link of the image led to the host")
		}
	})
}

func TestBindErrors(t *testing.T) {
	t.Parallel()
	namespaces(t)
	dir := t.TempDir()
	for _, test := range []struct {
		bind hpcrun.Bind
		is   error
	}{
		{hpcrun.Bind{Source: dir + "/absent"}, fs.ErrNotExist},
		{hpcrun.Bind{Source: dir, Target: "/etc/marker"}, syscall.ENOTDIR},
		{hpcrun.Bind{Source: "/etc/passwd", Target: "/opt"}, syscall.EISDIR},
		{hpcrun.Bind{Source: dir, Target: "/etc/marker/below"}, syscall.ENOTDIR},
		{hpcrun.Bind{Source: dir, Target: "/tmp/hpcimg-no-such-directory/x"}, fs.ErrNotExist},
		{hpcrun.Bind{Source: dir, Target: "/"}, nil},
	} {
		_, err := hpcrun.Compile(t.Context(), &hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Args: []string{"true"}, Binds: []hpcrun.Bind{test.bind}})
		if e, ok := errors.AsType[*hpcrun.BindError](err); !ok || test.is != nil && !errors.Is(e, test.is) {
			t.Errorf("%v: %v", test.bind, err)
		}
	}
}

func TestHomeAndWorkingDirectory(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		home, work := t.TempDir(), t.TempDir()
		if err := os.WriteFile(home+"/dot", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		spec.Omit.Tmp = true // where the directories of the test are
		spec.Home = hpcrun.Home{Source: home, Target: "/users/me"}
		spec.HostDir = work
		spec.Args = sh("pwd; ls ~ /users/me")
		spec.Env = append(spec.Env, "HOME=/users/me")
		want := work + "\n/users/me:\ndot\n"
		if got := mustOutput(t, spec); !strings.HasPrefix(got, work+"\n") || strings.Count(got, "dot") != 2 && got != want {
			t.Errorf("got %q", got)
		}
		spec.HostDir, spec.Args = "", []string{"readlink", "/proc/self/cwd"}
		if got := mustOutput(t, spec); got != "/users/me\n" {
			t.Errorf("without a directory of the host: %q", got)
		}
		spec.Dir = "/opt/abs"
		if got := mustOutput(t, spec); got != "/opt/deep\n" {
			t.Errorf("with Dir: %q", got)
		}
		spec.Dir, spec.Args, spec.Env = "/opt/deep", []string{"cat", "/proc/self/environ"}, append(spec.Env, "PWD=/users/me")
		if got := mustOutput(t, spec); !strings.Contains(got, "PWD=/opt/deep\x00") || spec.Env[len(spec.Env)-1] != "PWD=/users/me" {
			t.Errorf("PWD: %q, and in the specification %q", got, spec.Env)
		}
		spec.Dir = "/etc/marker"
		if _, err := output(t, spec); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("Dir that is a file: %v", err)
		}
		spec.Dir, spec.Home.Source = "", home+"/dot"
		if _, err := output(t, spec); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("home that is a file: %v", err)
		}
		spec.Home.Source = home
		spec.Dir = "/nowhere"
		if _, err := output(t, spec); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Dir that does not exist: %v", err)
		}
	})
}

func TestContain(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		marker := t.TempDir() // below the host's /tmp
		spec.Home.Target = "/home/me"
		spec.Args = sh(`test -e "$1" || echo hidden; echo x >/tmp/x && echo x >/home/me/x && echo x >/dev/null && echo x >/dev/shm/x && echo writable
			ls /dev; for i in /proc/[0-9]*; do echo; done | cat | { read a; read b; read c; read d && echo many; }; echo $$; cat /dev/stdin`, marker)
		spec.Contain = hpcrun.ContainAll
		got := mustOutput(t, spec)
		if !strings.HasPrefix(got, "hidden\nwritable\nfd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n") || !strings.HasSuffix(got, "2\n") {
			t.Errorf("got %q", got)
		}
	})
}

func TestPIDNamespace(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		spec.Namespaces.PID = true
		spec.Args = sh("echo $$; kill -KILL $$")
		out, err := output(t, spec)
		if out != "2\n" || hpcrun.ExitCode(err) != 128+9 {
			t.Errorf("got %q, %v", out, err)
		}
	})
}

func TestSignals(t *testing.T) {
	t.Parallel()
	for _, pid := range []bool{false, true} {
		each(t, func(t *testing.T, spec hpcrun.Spec) {
			spec.Namespaces.PID = pid
			spec.Args = sh(`trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.05; done`)
			cmd := hpcrun.NewCmd(&spec)
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(stdout)
			if line, err := r.ReadString('\n'); line != "ready\n" {
				t.Fatalf("%q, %v", line, err)
			}
			signals := make(chan os.Signal, 1)
			go cmd.Process.Forward(signals)
			signals <- syscall.SIGUSR1
			if line, err := r.ReadString('\n'); line != "got\n" {
				t.Errorf("%q, %v", line, err)
			}
			if err := cmd.Wait(); hpcrun.ExitCode(err) != 5 {
				t.Errorf("%v", err)
			}
			if err := cmd.Process.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
				t.Errorf("signal after the end: %v", err)
			}
		})
	}
}

func TestContext(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		spec.Args = []string{"sleep", "1000"}
		if err := hpcrun.NewCmd(&spec).Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("before: %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		start := time.Now()
		if err := hpcrun.NewCmd(&spec).Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("during: %v", err)
		}
		if d := time.Since(start); d > 20*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

// TestCancelEarly cancels at every moment of a start, and looks for what is left.
func TestCancelEarly(t *testing.T) {
	t.Parallel()
	oracle.UserNS(t)
	for i := range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond)
		spec := hpcrun.Spec{Image: hpcrun.Image{Path: imageFile(), Backend: hpcrun.BackendExtract}, Args: []string{"sleep", "1000"}, Namespaces: hpcrun.Namespaces{User: true}}
		if err := hpcrun.NewCmd(&spec).Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %d ms: %v", i, err)
		}
		cancel()
	}
}

// TestKilled: nothing outlives a supervisor that is killed.
func TestKilled(t *testing.T) {
	t.Parallel()
	for _, b := range []struct {
		image   string
		backend hpcrun.Backend
		need    func(testing.TB)
	}{
		{rootDir(), hpcrun.BackendDirectory, namespaces},
		{imageFile(), hpcrun.BackendExtract, namespaces},
		{imageFile(), hpcrun.BackendKernel, oracle.Root},
		{imageFile(), hpcrun.BackendFUSE, fuse},
	} {
		t.Run(string(b.backend), func(t *testing.T) {
			b.need(t)
			image := b.image
			if b.backend == hpcrun.BackendKernel { // one's own, for others use the common one at the same time
				data, err := os.ReadFile(image)
				image = filepath.Join(t.TempDir(), "image")
				if err := errors.Join(err, os.WriteFile(image, data, 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command("/proc/self/exe", image, string(b.backend))
			cmd.Env = []string{helpVar + "=1", "PATH=" + os.Getenv("PATH"), "HPCIMG_FUSE=" + fuseDevice(t)}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line, _ := bufio.NewReader(stdout).ReadString('\n')
			pid, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "pid ")))
			if err != nil {
				t.Fatalf("helper says %q", line)
			}
			if b.backend == hpcrun.BackendKernel && !backing(image) {
				t.Error("no loop device while the command runs")
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			eventually(t, "the command ended", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
			eventually(t, "the loop device went", func() bool { return !backing(image) })
			mounts, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil || bytes.Contains(mounts, []byte("/skeleton")) {
				t.Errorf("mounts: %v\n%s", err, mounts)
			}
		})
	}
}

func TestConcurrent(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		spec.Args = []string{"cat", "/etc/marker"}
		plan, err := hpcrun.Compile(t.Context(), &spec)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				out, err := (&hpcrun.Cmd{Plan: plan}).Output(t.Context())
				if err != nil || string(out) != "image\n" {
					t.Errorf("%q, %v", out, err)
				}
			})
		}
		wg.Wait()
	})
}

// TestLimit: the command has the limit of open files that this process was started with, not the one that Go has set.
func TestLimit(t *testing.T) {
	t.Parallel()
	namespaces(t)
	want, err := exec.Command("/bin/sh", "-c", "ulimit -Sn").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := mustOutput(t, hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Args: sh("ulimit -Sn")}); got != string(want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestManyFiles: a program that has more files open than it was allowed at first starts commands, which are not allowed more than that.
func TestManyFiles(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		for _, executor := range []hpcrun.Executor{hpcrun.ExecutorAuto, hpcrun.ExecutorFork} {
			cmd := exec.Command("/bin/sh", "-c", `ulimit -Sn 64; exec "$0" "$@"`, "/proc/self/exe", spec.Image.Path, string(spec.Image.Backend))
			cmd.Args[3], _ = os.Executable()
			cmd.Env = append(os.Environ(), helpVar+"=files", "HPCIMG_FUSE="+spec.Image.FUSEDevice, executorVar+"="+string(executor))
			if spec.Namespaces.User {
				cmd.Env = append(cmd.Env, userVar+"=1")
			}
			if out, err := cmd.CombinedOutput(); err != nil || string(out) != "64\n" {
				t.Errorf("%s: %q, %v", executor, out, err)
			}
		}
	})
}

// manyFiles runs a command while more files are open than this process was allowed at first.
func manyFiles(spec hpcrun.Spec) int {
	for range 100 {
		if _, err := os.Open("/"); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	spec.Args = []string{"/bin/sh", "-c", "ulimit -Sn"}
	spec.Namespaces.User = os.Getenv(userVar) != ""
	out, err := (&hpcrun.Cmd{Spec: &spec, Executor: hpcrun.Executor(os.Getenv(executorVar))}).CombinedOutput(context.Background())
	os.Stdout.Write(out)
	if err != nil {
		fmt.Println(err)
	}
	return hpcrun.ExitCode(err)
}

// TestFull: a start ends with the reason when this process cannot take what the child hands over, since it has as many files open as it may have.
func TestFull(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		if spec.Image.Backend == "" || spec.Image.ExtractDir != "" || spec.Image.Backend == hpcrun.BackendKernel {
			return // hands nothing over
		}
		cmd := exec.Command("/bin/sh", "-c", `ulimit -n 80; exec "$0" "$@"`, "", spec.Image.Path, string(spec.Image.Backend))
		cmd.Args[3], _ = os.Executable()
		cmd.Env = append(os.Environ(), helpVar+"=full", "HPCIMG_FUSE="+spec.Image.FUSEDevice)
		if spec.Namespaces.User {
			cmd.Env = append(cmd.Env, userVar+"=1")
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// full starts a command again and again, and opens all files that it may as soon as there is a child.
func full(spec hpcrun.Spec) int {
	spec.Namespaces.User = os.Getenv(userVar) != ""
	spec.Args = []string{"/bin/true"}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	plan, err := hpcrun.Compile(ctx, &spec)
	for round := 0; round < 8 && (err == nil || errors.Is(err, unix.EMFILE)); round++ {
		started := make(chan struct{})
		var open []int
		var filler sync.WaitGroup
		filler.Go(func() {
			for {
				select {
				case <-started:
					return
				default:
				}
				// Nothing here needs a descriptor.
				if len(open) == 0 && unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) != nil {
					continue
				}
				if fd, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0); err == nil {
					open = append(open, fd)
				}
			}
		})
		var proc *hpcrun.Process
		if proc, err = plan.Start(ctx, nil); err == nil {
			_, err = proc.Wait()
		}
		close(started)
		filler.Wait()
		for _, fd := range open {
			_ = unix.Close(fd)
		}
	}
	if err != nil && !errors.Is(err, unix.EMFILE) {
		fmt.Println("got", err)
		return 1
	}
	return 0
}

// TestAsUser runs the tests of this package as an ordinary user, where root runs them.
func TestAsUser(t *testing.T) {
	t.Parallel()
	oracle.Root(t)
	oracle.UserNS(t)
	dir := oracle.UserDir(t)
	binary, err := os.ReadFile("/proc/self/exe")
	if err := errors.Join(err, os.WriteFile(dir+"/test", binary, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := oracle.AsUser(t, exec.Command(dir+"/test", "-test.run", "^Test(Run|KillRounds|KilledParts|Seccomp|Advice|Executors|Writable|Session|LeaderKilled|ExitCodes|Privileges|Fakeroot|Binds|Contain|PIDNamespace|Killed|HomeAndWorkingDirectory)$", "-test.short"))
	cmd.Dir = dir
	cmd.Env = []string{"TMPDIR=" + dir, "PATH=" + os.Getenv("PATH"), "HPCIMG_FUSE=" + oracle.FUSE(t)}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
