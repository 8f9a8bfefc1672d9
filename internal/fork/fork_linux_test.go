package fork_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fork"
	"hpcimg/internal/oracle"
)

// execute runs a table whose last calls execute argv, and returns what it wrote and its state.
func execute(t *testing.T, calls []fork.Call, o *fork.Options, files, argv []string) (string, *os.ProcessState, error) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if o == nil {
		o = &fork.Options{}
	}
	o.Files = map[fork.FD]*os.File{"out": w}
	calls = append([]fork.Call{fork.PDeathSig(), fork.Keep("out", "kept")}, calls...)
	calls = append(calls, fork.Dup("kept", 1), fork.Dup("kept", 2), fork.RestoreSignals())
	calls = append(calls, fork.Exec(files, argv, []string{"A=1", "LC_ALL=C"})...)
	child, err := fork.Start(calls, o)
	w.Close()
	if err != nil {
		return "", nil, err
	}
	err = child.Ready(t.Context())
	out, _ := io.ReadAll(r)
	p, _ := os.FindProcess(child.PID)
	state, waitErr := p.Wait()
	if waitErr != nil {
		t.Fatal(waitErr)
	}
	return string(out), state, err
}

func sh(script string) []string { return []string{"sh", "-c", script} }

// executors runs a test with each executor.
func executors(t *testing.T, test func(t *testing.T, e fork.Executor)) {
	t.Parallel()
	for name, e := range map[string]fork.Executor{"memfd": fork.ExecutorMemfd, "fork": fork.ExecutorFork} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if e == fork.ExecutorMemfd {
				_, _, err := execute(t, nil, &fork.Options{Executor: e}, []string{"/bin/true"}, []string{"true"})
				if err != nil && !errors.Is(err, errors.ErrUnsupported) {
					t.Fatal(err)
				}
				oracle.Need(t, oracle.NeedUserNS, err)
			}
			test(t, e)
		})
	}
}

func TestExec(t *testing.T) {
	executors(t, func(t *testing.T, e fork.Executor) {
		out, state, err := execute(t, nil, &fork.Options{Executor: e}, []string{"/nowhere/sh", "/bin/sh"}, sh(`echo "$A $0"; exit 7`))
		if err != nil || out != "1 sh\n" || state.ExitCode() != 7 {
			t.Errorf("got %q, %v, %v", out, state, err)
		}
	})
}

func TestErrors(t *testing.T) {
	executors(t, func(t *testing.T, e fork.Executor) {
		dir := t.TempDir()
		plain := dir + "/plain"
		if err := os.WriteFile(plain, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			name  string
			calls []fork.Call
			files []string
			want  error
			text  string
		}{
			{"no such program", nil, []string{"/nowhere/a", "/nowhere/b"}, fs.ErrNotExist, "execve /nowhere/b: no such file"},
			{"denied outweighs absent", nil, []string{plain, "/nowhere/b"}, fs.ErrPermission, "permission denied"},
			{"open", []fork.Call{fork.Open(fork.CWD, dir+"/absent", unix.O_RDONLY, 0, "f")}, nil, fs.ErrNotExist, "openat " + dir + "/absent"},
			{"short write", []fork.Call{fork.Open(fork.CWD, "/dev/full", unix.O_WRONLY, 0, "f"), fork.Write("f", []byte("x")).About("the map")}, nil, syscall.ENOSPC, "write the map"},
			{"no path", []fork.Call{fork.Setrlimit(99, "RLIMIT_X", syscall.Rlimit{})}, nil, syscall.EINVAL, "prlimit64"},
			{"end of file", []fork.Call{fork.Open(fork.CWD, "/dev/null", unix.O_RDONLY, 0, "f"), fork.ReadByte("f")}, nil, syscall.EPIPE, "read"},
		} {
			t.Run(test.name, func(t *testing.T) {
				files := test.files
				if files == nil {
					files = []string{"/bin/true"}
				}
				_, state, err := execute(t, test.calls, &fork.Options{Executor: e}, files, []string{"x"})
				var e *fork.Error
				if !errors.As(err, &e) || !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
					t.Errorf("got %v, want %q, %v", err, test.text, test.want)
				}
				if state.ExitCode() != 125 {
					t.Errorf("exit code %d", state.ExitCode())
				}
			})
		}
	})
}

func TestLink(t *testing.T) {
	t.Parallel()
	for name, calls := range map[string][]fork.Call{
		"NUL":     {fork.Chdir("/a\x00b")},
		"unknown": {fork.Fchdir("nobody")},
		"saved":   {fork.RestoreUmask()},
	} {
		if _, err := fork.Start(calls, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestSignals: the program starts with the caller's mask and default actions, whatever handlers the Go runtime has.
func TestSignals(t *testing.T) {
	executors(t, func(t *testing.T, e fork.Executor) {
		out, _, err := execute(t, nil, &fork.Options{Executor: e}, []string{"/bin/cat"}, []string{"cat", "/proc/self/status"})
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out) {
			name, set, _ := strings.Cut(line, ":")
			if (name == "SigBlk" || name == "SigCgt") && strings.Trim(set, "0\t\n") != "" {
				t.Errorf("%s is %s", name, set)
			}
		}
	})
}

func TestDescriptors(t *testing.T) {
	executors(t, func(t *testing.T, e fork.Executor) {
		calls := []fork.Call{
			fork.Open(fork.CWD, "/", unix.O_PATH, 0, "a"),
			fork.Open("a", "proc", unix.O_PATH, 0, "b"),
			fork.Open("b", "self/status", unix.O_RDONLY, 0, "c"),
			fork.Close("b"),
			fork.OpenIn("a", "../../etc/..", "b"),
			fork.ClearUmask(), fork.RestoreUmask(), fork.ParentAlive(),
		}
		out, _, err := execute(t, calls, &fork.Options{Executor: e}, []string{"/bin/ls"}, []string{"ls", "-l", "/proc/self/fd"})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out, "-> /\n") || strings.Contains(out, "status") {
			t.Errorf("the program sees descriptors of the table:\n%s", out)
		}
	})
}

// TestConcurrent forks while the rest of the process is busy with everything that takes locks of the runtime.
func TestConcurrent(t *testing.T) {
	executors(t, func(t *testing.T, e fork.Executor) {
		rounds := 40
		if testing.Short() {
			rounds = 10
		}
		done := make(chan struct{})
		var busy sync.WaitGroup
		busy.Go(func() {
			var keep [][]byte
			for {
				select {
				case <-done:
					return
				default:
				}
				keep = append(keep, make([]byte, 1<<16))
				if len(keep) == 100 {
					keep = keep[:0]
					runtime.GC()
				}
			}
		})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range rounds {
					out, _, err := execute(t, nil, &fork.Options{Executor: e}, []string{"/bin/echo"}, []string{"echo", "x"})
					if err != nil || out != "x\n" {
						t.Errorf("%q, %v", out, err)
					}
				}
			})
		}
		wg.Wait()
		close(done)
		busy.Wait()
	})
}

func TestInit(t *testing.T) {
	t.Parallel()
	oracle.Root(t)
	o := &fork.Options{Clone: unix.CLONE_NEWPID}
	out, state, err := execute(t, []fork.Call{fork.Init()}, o, []string{"/bin/sh"}, sh(`(sleep 0.01 &) ; echo $$; exit 3`))
	if err != nil || out != "2\n" || state.ExitCode() != 3 {
		t.Errorf("got %q, %v, %v", out, state, err)
	}
	_, state, err = execute(t, []fork.Call{fork.Init()}, &fork.Options{Clone: unix.CLONE_NEWPID}, []string{"/bin/sh"}, sh(`kill -TERM $$`))
	if err != nil || state.ExitCode() != 128+15 {
		t.Errorf("killed: %v, %v", state, err)
	}
	_, state, err = execute(t, []fork.Call{fork.Init()}, &fork.Options{Clone: unix.CLONE_NEWPID}, []string{"/nowhere"}, []string{"x"})
	if !errors.Is(err, fs.ErrNotExist) || state.ExitCode() != 125 {
		t.Errorf("no program: %v, %v", state, err)
	}
	start := time.Now()
	_, state, err = execute(t, []fork.Call{fork.Init()}, &fork.Options{Clone: unix.CLONE_NEWPID}, []string{"/bin/sh"}, sh(`sleep 100 & kill -USR1 1; wait`))
	if err != nil || state.ExitCode() != 128+10 || time.Since(start) > 10*time.Second {
		t.Errorf("signal passed on: %v, %v", state, err)
	}
}

func TestString(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		call fork.Call
		want string
	}{
		{fork.Unshare(unix.CLONE_NEWUSER | unix.CLONE_NEWNS), "unshare(CLONE_NEWUSER|CLONE_NEWNS)"},
		{fork.Open(fork.CWD, "/x", unix.O_PATH, 0, "x"), `openat(AT_FDCWD, "/x", O_PATH|O_CLOEXEC) = $x`},
		{fork.Open("d", "f", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644, "x"), `openat($d, "f", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0644) = $x`},
		{fork.Mount(fork.Through("s"), fork.Through("d"), "", unix.MS_BIND|unix.MS_REC), "mount(/proc/self/fd/$s, /proc/self/fd/$d, NULL, MS_BIND|MS_REC, NULL)"},
		{fork.Mount(fork.At(""), fork.At("/tmp"), "tmpfs", unix.MS_NOSUID, fork.At("size=1")), `mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID, "size=1")`},
		{fork.Mount(fork.At(""), fork.Through("r"), "overlay", 0, fork.At("lowerdir="), fork.Through("a"), fork.At(":"), fork.Through("b")), `mount("overlay", /proc/self/fd/$r, "overlay", 0, "lowerdir=/proc/self/fd/$a:/proc/self/fd/$b")`},
		{fork.SetAttr("r", unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV, true), `mount_setattr($r, "", AT_EMPTY_PATH|AT_RECURSIVE, {MOUNT_ATTR_RDONLY|MOUNT_ATTR_NODEV}, 32)`},
		{fork.Exec([]string{"/bin/sh"}, []string{"sh", "-c"}, nil)[0], `execve("/bin/sh", ["sh", "-c"], 0 variables)`},
		{fork.PDeathSig().Lax(), "prctl(PR_SET_PDEATHSIG, SIGKILL) || true"},
		{fork.OpenIn(fork.CWD, "/x", "x").Lax(), `openat2(AT_FDCWD, "/x", {O_PATH|O_CLOEXEC, RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS}, 24) = $x || true`},
	} {
		if got := test.call.String(); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}

// TestRestoreNoFile: a program has the limit that the Go runtime has raised, whoever starts it.
func TestRestoreNoFile(t *testing.T) {
	want, err := exec.Command("/bin/sh", "-c", "ulimit -Sn").Output()
	if err != nil {
		t.Fatal(err)
	}
	executors(t, func(t *testing.T, e fork.Executor) {
		out, _, err := execute(t, []fork.Call{fork.RestoreNoFile()}, &fork.Options{Executor: e}, []string{"/bin/sh"}, sh("ulimit -Sn"))
		if err != nil || out != string(want) {
			t.Errorf("got %q, %v, want %q", out, err, want)
		}
	})
}

// TestOriginalNoFile compares with what os/exec gives its children.
func TestOriginalNoFile(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("/bin/sh", "-c", "ulimit -Sn").Output()
	if err != nil {
		t.Fatal(err)
	}
	lim, err := fork.OriginalNoFile()
	if want := strings.TrimSpace(string(out)); err != nil || strconv.FormatUint(lim.Cur, 10) != want {
		t.Errorf("got %v, %v, want %s", lim, err, want)
	}
}

// TestInherited: every descriptor that is meant for children arrives under its number, and nothing else does, wherever the
// executor puts what it needs for itself.
func TestInherited(t *testing.T) {
	executors(t, func(t *testing.T, e fork.Executor) {
		null, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		want := make(map[string]bool)
		for range 12 {
			fd, err := unix.FcntlInt(null.Fd(), unix.F_DUPFD, 3) // the lowest that are free: around those of the executor
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			want[strconv.Itoa(fd)] = true
			secret, err := unix.FcntlInt(null.Fd(), unix.F_DUPFD_CLOEXEC, 3)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(secret)
			want[strconv.Itoa(secret)] = false
		}
		calls := []fork.Call{fork.Open(fork.CWD, "/etc", unix.O_PATH, 0, "a"), fork.Open(fork.CWD, "/etc", unix.O_PATH, 0, "b")}
		out, _, err := execute(t, calls, &fork.Options{Executor: e}, []string{"/bin/ls"}, []string{"ls", "-l", "/proc/self/fd"})
		if err != nil {
			t.Fatal(err)
		}
		for fd, passed := range want {
			if got := strings.Contains(out, " "+fd+" -> /dev/null\n"); got != passed {
				t.Errorf("descriptor %s: passed on %v, want %v\n%s", fd, got, passed, out)
			}
		}
	})
}

// TestFailureAtEveryCall makes each call of a table fail in turn: both executors report the same one, by name and path.
func TestFailureAtEveryCall(t *testing.T) {
	executors(t, func(t *testing.T, e fork.Executor) {
		dir := t.TempDir()
		good := []fork.Call{
			fork.Open(fork.CWD, dir, unix.O_PATH|unix.O_DIRECTORY, 0, "d"),
			fork.Mkdir("d", "x", 0o755).Lax(),
			fork.ClearUmask(),
			fork.OpenBeneath("d", "x", unix.O_PATH, 0, "x"),
			fork.RestoreUmask(),
			fork.Fchdir("x"),
			fork.ParentAlive(),
			fork.NoNewPrivs(),
		}
		for i := range len(good) + 1 {
			path := dir + "/absent" + strconv.Itoa(i)
			calls := append(append(append([]fork.Call(nil), good[:i]...), fork.Chdir(path)), good[i:]...)
			_, state, err := execute(t, calls, &fork.Options{Executor: e}, []string{"/bin/true"}, []string{"true"})
			var failed *fork.Error
			var pathErr *fs.PathError
			// execute puts two calls in front.
			if !errors.As(err, &failed) || failed.Index != i+2 || !errors.As(err, &pathErr) || pathErr.Path != path || pathErr.Op != "chdir" || pathErr.Err != syscall.ENOENT {
				t.Errorf("at %d: %v", i, err)
			}
			if state.ExitCode() != 125 {
				t.Errorf("at %d: %v", i, state)
			}
		}
	})
}

// TestLaxOpen: a file that does not open leaves its descriptor what it was, one that does takes its place.
func TestLaxOpen(t *testing.T) {
	executors(t, func(t *testing.T, e fork.Executor) {
		dir := t.TempDir()
		for name, want := range map[string]string{"absent": "/etc", "": dir} {
			calls := []fork.Call{
				fork.Open(fork.CWD, "/etc", unix.O_PATH|unix.O_DIRECTORY, 0, "d"), fork.Open(fork.CWD, dir+"/"+name, unix.O_PATH, 0, "d").Lax(), fork.Fchdir("d"),
			}
			out, _, err := execute(t, calls, &fork.Options{Executor: e}, []string{"/bin/readlink"}, []string{"readlink", "/proc/self/cwd"})
			if err != nil || strings.TrimSpace(out) != want {
				t.Errorf("%q: %q, %v, want %s", name, out, err, want)
			}
		}
	})
}
