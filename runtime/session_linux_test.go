package runtime_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"hpcimg/internal/oracle"
	hpcrun "hpcimg/runtime"
)

func openSession(t testing.TB, dir string) *hpcrun.Session {
	t.Helper()
	s, err := hpcrun.OpenSession(dir, "test")
	mustAll(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func namespacesOf(t testing.TB, pid int) string {
	t.Helper()
	var all []string
	for _, name := range []string{"user", "mnt"} {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
		mustAll(t, err)
		all = append(all, link)
	}
	return strings.Join(all, " ")
}

// TestSession has one command lead and 64 join at once.
func TestSession(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		dir := filepath.Join(t.TempDir(), "session")
		s := openSession(t, dir)
		spec.Shared, spec.Args = true, []string{"sleep", "1000"}
		plan, err := hpcrun.Compile(t.Context(), &spec)
		mustAll(t, err)
		leader, err := plan.Start(t.Context(), &hpcrun.StartOptions{Session: s})
		mustAll(t, err)
		want := namespacesOf(t, leader.PID())
		guests := 64
		if testing.Short() {
			guests = 8
		}
		spec.Args = sh(`readlink /proc/self/ns/user /proc/self/ns/mnt; cat /etc/marker; pwd; echo "$V"; exit 3`)
		spec.Env = append(spec.Env, "V=own")
		var wg sync.WaitGroup
		for range guests {
			wg.Go(func() {
				out, err := (&hpcrun.Cmd{Spec: &spec, Session: s}).Output(t.Context())
				lines := strings.Split(string(out), "\n")
				if len(lines) < 5 || lines[0]+" "+lines[1] != want || lines[2] != "image" || lines[4] != "own" || hpcrun.ExitCode(err) != 3 {
					t.Errorf("%q, %v, want %s", out, err, want)
				}
			})
		}
		wg.Wait()
		mustAll(t, s.Wait(t.Context()))
		// What mounts something else is by itself.
		spec.Binds = []hpcrun.Bind{{Source: dir, Target: "/mnt/other"}}
		out, err := (&hpcrun.Cmd{Spec: &spec, Session: s}).Output(t.Context())
		if lines := strings.Split(string(out), "\n"); hpcrun.ExitCode(err) != 3 || lines[0]+" "+lines[1] == want {
			t.Errorf("with another bind: %q, %v", out, err)
		}
		spec.Args, spec.Binds = []string{"no-such-program"}, []hpcrun.Bind{{Source: dir, Target: "/mnt/third"}}
		if err := (&hpcrun.Cmd{Spec: &spec, Session: s}).Run(t.Context()); hpcrun.ExitCode(err) != hpcrun.ExitNotFound {
			t.Errorf("no program: %v", err)
		}
		mustAll(t, leader.Kill())
		_, err = leader.Wait()
		mustAll(t, err, s.Close())
		if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
			t.Errorf("left: %v, %v", names, err)
		}
	})
}

// sleeper starts a process that runs sleep in a session, and returns it and the number of the command.
func sleeper(t testing.TB, spec hpcrun.Spec, dir string, executor hpcrun.Executor) (*exec.Cmd, int) {
	t.Helper()
	image := spec.Image
	cmd := exec.Command("/proc/self/exe", image.Path, string(image.Backend))
	cmd.Env = []string{helpVar + "=1", "PATH=" + os.Getenv("PATH"), sessionVar + "=" + dir, executorVar + "=" + string(executor), "HPCIMG_FUSE=" + image.FUSEDevice}
	if spec.Namespaces.User {
		cmd.Env = append(cmd.Env, userVar+"=1")
	}
	stdout, err := cmd.StdoutPipe()
	mustAll(t, err, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	pid, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "pid ")))
	if err != nil {
		t.Fatalf("the process says %q", line)
	}
	return cmd, pid
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// TestLeaderKilled kills the leader again and again: the others go on, and newcomers find them.
func TestLeaderKilled(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		if spec.Image.ExtractDir != "" {
			return // is removed when the leader ends, and stays when it is killed
		}
		dir := filepath.Join(t.TempDir(), "session")
		var processes []*exec.Cmd
		var pids []int
		for range 3 {
			cmd, pid := sleeper(t, spec, dir, "")
			processes, pids = append(processes, cmd), append(pids, pid)
		}
		want := namespacesOf(t, pids[0])
		for i := range 2 {
			if got := namespacesOf(t, pids[i+1]); got != want {
				t.Errorf("process %d is in %s, not %s", i+1, got, want)
			}
			_ = processes[i].Process.Kill()
			_ = processes[i].Wait()
			eventually(t, "its command ended", func() bool { return !alive(pids[i]) })
			_, pid := sleeper(t, spec, dir, hpcrun.ExecutorFork)
			if got := namespacesOf(t, pid); got != want {
				t.Errorf("after %d leaders: a newcomer is in %s, not %s", i+1, got, want)
			}
			// Files that nobody has read so far come from whoever serves the image now.
			file := []string{"/opt/text", "/etc/group"}[i]
			s := openSession(t, dir)
			look := hpcrun.Spec{Image: spec.Image, Namespaces: spec.Namespaces, Shared: true, Args: sh(`readlink /proc/self/ns/user /proc/self/ns/mnt; test -s "$1" && ls -l "$1" /opt >/dev/null && echo read`, file), Env: spec.Env}
			out, err := (&hpcrun.Cmd{Spec: &look, Session: s}).CombinedOutput(t.Context())
			if lines := strings.Split(string(out), "\n"); err != nil || len(lines) != 4 || lines[0]+" "+lines[1] != want || lines[2] != "read" {
				t.Errorf("after %d leaders: %q, %v, want %s", i+1, out, err, want)
			}
			mustAll(t, s.Close())
		}
	})
}

func TestSessionErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mustAll(t, os.Mkdir(dir+"/open", 0o755), os.Symlink(dir, dir+"/link"), os.WriteFile(dir+"/file", nil, 0o600), os.Chmod(dir+"/open", 0o755))
	for name, test := range map[string]struct {
		dir, tag string
		is       error
	}{
		"open to others": {dir + "/open", "x", fs.ErrPermission},
		"a link":         {dir + "/link", "x", nil},
		"a file":         {dir + "/file", "x", syscall.ENOTDIR},
		"no parent":      {dir + "/no/such", "x", fs.ErrNotExist},
		"relative":       {"x", "x", fs.ErrInvalid},
		"no tag":         {dir + "/new", "", fs.ErrInvalid},
	} {
		_, err := hpcrun.OpenSession(test.dir, test.tag)
		if _, ok := errors.AsType[*hpcrun.SessionError](err); !ok || test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := openSession(t, dir+"/mine")
	spec := hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Args: []string{"true"}}
	if err := (&hpcrun.Cmd{Spec: &spec, Session: s}).Run(t.Context()); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("not shared: %v", err)
	}
	spec.Shared, spec.Namespaces.PID = true, true
	if _, err := hpcrun.Compile(t.Context(), &spec); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("with a PID namespace: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v", err)
	}
}

// TestSessionClosed closes a session while a command is started in it.
func TestSessionClosed(t *testing.T) {
	t.Parallel()
	namespaces(t)
	dir := t.TempDir()
	s, err := hpcrun.OpenSession(dir+"/session", "x")
	mustAll(t, err)
	asked := false
	spec := hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Shared: true, Args: []string{"/bin/true"}}
	spec.Image.Admit = func(context.Context, *os.File, int64, int64) error {
		asked = true
		return s.Close()
	}
	for range 2 { // the second time, it is closed before
		var sessionErr *hpcrun.SessionError
		if err := (&hpcrun.Cmd{Spec: &spec, Session: s}).Run(t.Context()); !errors.Is(err, os.ErrClosed) || !errors.As(err, &sessionErr) || !asked {
			t.Errorf("got %v", err)
		}
	}
	if names, err := os.ReadDir(dir + "/session"); err != nil || len(names) > 0 {
		t.Errorf("left: %v, %v", names, err)
	}
}

// TestSessionElsewhere has a process with other mounts ask for the session of the same tag: paths mean other files to it.
func TestSessionElsewhere(t *testing.T) {
	t.Parallel()
	oracle.Root(t)
	spec := hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Shared: true, Args: []string{"sleep", "1000"}}
	dir := filepath.Join(t.TempDir(), "session")
	s := openSession(t, dir)
	plan, err := hpcrun.Compile(t.Context(), &spec)
	mustAll(t, err)
	leader, err := plan.Start(t.Context(), &hpcrun.StartOptions{Session: s})
	mustAll(t, err)
	want := namespacesOf(t, leader.PID())
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
			ended <- err
			return
		}
		spec.Args = sh("readlink /proc/self/ns/user /proc/self/ns/mnt")
		out, err := (&hpcrun.Cmd{Spec: &spec, Session: s}).Output(t.Context())
		if err == nil && strings.Join(strings.Fields(string(out)), " ") == want {
			err = errors.New("it joined")
		}
		ended <- err
	}()
	mustAll(t, <-ended, leader.Kill())
	_, _ = leader.Wait()
}
