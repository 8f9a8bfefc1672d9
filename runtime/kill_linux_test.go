package runtime_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	hpcrun "hpcimg/runtime"
)

var killRounds = flag.Int("kill-rounds", 10, "how often each backend is started and killed")

// TestKillRounds kills supervisors at any moment of a start, and a little later: no process, mount, loop device, FUSE
// connection or file is left.
func TestKillRounds(t *testing.T) {
	t.Parallel()
	rounds := *killRounds
	if testing.Short() {
		rounds = min(rounds, 3)
	}
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		if spec.Image.ExtractDir != "" {
			return // its directory stays if the process is killed, as documented
		}
		mark := "HPCIMG_TEST_MARK=" + t.Name()
		image := spec.Image.Path
		if image == imageFile() { // one's own, for others use the common one at the same time
			data, err := os.ReadFile(image)
			image = filepath.Join(t.TempDir(), "image")
			mustAll(t, err, os.WriteFile(image, data, 0o644))
		}
		session := filepath.Join(t.TempDir(), "session")
		group := 1<<30 + rand.N(1<<30) // whose all is that they make
		start := func(i int) *exec.Cmd {
			cmd := exec.Command("/proc/self/exe", image, string(spec.Image.Backend))
			executor := []string{"memfd", "fork"}[i%2]
			cmd.Env = []string{helpVar + "=1", mark, "PATH=" + os.Getenv("PATH"), executorVar + "=" + executor, "HPCIMG_FUSE=" + spec.Image.FUSEDevice}
			if spec.Namespaces.User {
				cmd.Env = append(cmd.Env, userVar+"=1")
			}
			if i%3 == 2 {
				cmd.Env = append(cmd.Env, sessionVar+"="+session)
			}
			if os.Geteuid() == 0 {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Gid: uint32(group), NoSetGroups: true}}
			}
			return cmd
		}
		if os.Geteuid() == 0 { // that what is looked for can be seen
			cmd := start(0)
			out, err := cmd.StdoutPipe()
			mustAll(t, err, cmd.Start())
			if _, err := pidOf(out); err != nil {
				t.Error(err)
			}
			served := strings.HasSuffix(string(spec.Image.Backend), "fuse")
			if n := connections(t, group); served != (n == 1) || len(ofGroup(group)) < 2 {
				t.Errorf("%d FUSE connections and %d processes of a command that runs", n, len(ofGroup(group)))
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		for i := range rounds {
			cmd := start(i)
			mustAll(t, cmd.Start())
			time.Sleep(rand.N(40 * time.Millisecond))
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		eventually(t, "all processes ended", func() bool { return len(marked(mark)) == 0 })
		eventually(t, "the loop device went", func() bool { return !backing(image) })
		if os.Geteuid() == 0 {
			eventually(t, "all of the group ended, servers too", func() bool { return len(ofGroup(group)) == 0 })
			eventually(t, "FUSE connections went", func() bool { return connections(t, group) == 0 })
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || bytes.Contains(mounts, []byte("/skeleton")) || bytes.Contains(mounts, []byte(image+" ")) {
			t.Errorf("mounts: %v\n%s", err, mounts)
		}
		if s, err := hpcrun.OpenSession(session, "test"); err == nil {
			mustAll(t, s.Close())
		}
		if names, _ := os.ReadDir(session); len(names) > 0 {
			t.Errorf("left of the sessions: %v", names)
		}
	})
}

// marked returns the processes with a variable of a name and value: supervisors, and the commands that they have started.
func marked(mark string) []int {
	var pids []int
	names, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range names {
		if data, err := os.ReadFile(name); err == nil && bytes.Contains(data, []byte(mark+"\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// connections counts the FUSE connections of this machine that a group has made. Others have some too, and the file system that
// shows them need not be mounted: it is, for this look, in a namespace.
func connections(t testing.TB, group int) int {
	t.Helper()
	out, err := exec.Command(oracle.Tool(t, "unshare"), "--mount", "sh", "-c", "mount -t fusectl none /sys/fs/fuse/connections && stat -c %g /sys/fs/fuse/connections/* || true").CombinedOutput()
	mustAll(t, err)
	n := 0
	for line := range strings.FieldsSeq(string(out)) {
		if line == strconv.Itoa(group) {
			n++
		}
	}
	return n
}

// ofGroup are the processes of a group.
func ofGroup(group int) []string {
	var found []string
	names, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, name := range names {
		if data, err := os.ReadFile(name); err == nil && bytes.Contains(data, fmt.Appendf(nil, "\nGid:\t%d\t", group)) {
			found = append(found, name)
		}
	}
	return found
}

// TestCommandsKilled kills commands at any moment, and cancels starts, in a process that goes on: it is left with the descriptors, goroutines
// and children that it had.
func TestCommandsKilled(t *testing.T) {
	t.Parallel()
	rounds := *killRounds
	if testing.Short() {
		rounds = min(rounds, 4)
	}
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		mark := "HPCIMG_TEST_MARK=" + t.Name()
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", spec.Image.Path, string(spec.Image.Backend), strconv.Itoa(rounds))
		cmd.Env = []string{helpVar + "=rounds", mark, "PATH=" + os.Getenv("PATH"), "HPCIMG_FUSE=" + spec.Image.FUSEDevice, sessionVar + "=" + filepath.Join(t.TempDir(), "session")}
		if spec.Namespaces.User {
			cmd.Env = append(cmd.Env, userVar+"=1")
		}
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "nothing is left\n" {
			t.Errorf("%v\n%s", err, out)
		}
		eventually(t, "all processes ended", func() bool { return len(marked(mark)) == 0 })
	})
}

// killCommands is the process of TestCommandsKilled.
func killCommands(spec *hpcrun.Spec, rounds string) int {
	n, err := strconv.Atoi(rounds)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	spec.Namespaces.User = os.Getenv(userVar) != ""
	spec.Env = os.Environ()
	var before [2]int
	for i := range n + 1 {
		if err := killCommand(*spec, i); err != nil {
			fmt.Printf("round %d: %v\n", i, err)
			return 1
		}
		if i == 0 { // what is there once and for all
			before = held()
		}
	}
	var after [2]int
	for range 500 {
		if after = held(); after[0] <= before[0] && after[1] <= before[1] {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	var status unix.WaitStatus
	if pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil); err != unix.ECHILD {
		fmt.Printf("a child is left: %d, %v\n", pid, err)
		return 1
	}
	if after[0] > before[0] || after[1] > before[1] {
		fmt.Printf("%d descriptors and %d goroutines, %d and %d before\n", after[0], after[1], before[0], before[1])
		return 1
	}
	fmt.Println("nothing is left")
	return 0
}

// held counts descriptors and goroutines.
func held() [2]int {
	names, _ := os.ReadDir("/proc/self/fd")
	return [2]int{len(names), runtime.NumGoroutine()}
}

// killCommand starts a command and has it end at a moment of its own: by a signal to it or, the odd ones, by the context.
func killCommand(spec hpcrun.Spec, i int) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cmd := &hpcrun.Cmd{Spec: &spec, Executor: []hpcrun.Executor{hpcrun.ExecutorMemfd, hpcrun.ExecutorFork}[i/2%2]}
	if i%3 == 2 {
		session, err := hpcrun.OpenSession(os.Getenv(sessionVar), "test")
		if err != nil {
			return err
		}
		defer session.Close()
		cmd.Session, spec.Shared = session, true
	}
	moment := rand.N(25 * time.Millisecond)
	if i%2 == 1 {
		time.AfterFunc(moment, cancel)
	}
	err := cmd.Start(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil
	case err != nil:
		return err
	case i%2 == 0:
		time.Sleep(moment)
		if err := unix.Kill(cmd.Process.PID(), unix.SIGKILL); err != nil {
			return err
		}
	}
	if err := cmd.Wait(); hpcrun.ExitCode(err) != 128+9 && ctx.Err() == nil {
		return fmt.Errorf("ended with %w", err)
	}
	return nil
}

// TestKilledParts kills the command, and sees the supervisor end and nothing remain.
func TestKilledParts(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		spec.Args = []string{"sleep", "1000"}
		cmd := hpcrun.NewCmd(&spec)
		mustAll(t, cmd.Start(t.Context()))
		mustAll(t, syscall.Kill(cmd.Process.PID(), syscall.SIGKILL))
		if err := cmd.Wait(); hpcrun.ExitCode(err) != 128+9 {
			t.Errorf("got %v", err)
		}
	})
}

// TestAdvice: where user namespaces are forbidden, the error says which setting does so.
func TestAdvice(t *testing.T) {
	t.Parallel()
	oracle.UserNS(t)
	cmd := exec.Command(oracle.Tool(t, "unshare"), "--user", "--map-root-user", "sh", "-c", `echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"`, "sh", "/proc/self/exe", rootDir(), "directory")
	self, err := os.Executable()
	mustAll(t, err)
	cmd.Args[len(cmd.Args)-3] = self
	cmd.Env = []string{helpVar + "=1", userVar + "=1", "PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	e, ok := errors.AsType[*exec.ExitError](err)
	if !ok || e.ExitCode() != 1 || !strings.Contains(string(out), "unshare") || !strings.Contains(string(out), "user.max_user_namespaces") {
		t.Errorf("%q, %v", out, err)
	}
}
