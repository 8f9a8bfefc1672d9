package runtime_test

import (
	"bytes"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

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
		if spec.Image.Backend == hpcrun.BackendKernel { // one's own, for others use the common one at the same time
			data, err := os.ReadFile(image)
			image = filepath.Join(t.TempDir(), "image")
			mustAll(t, err, os.WriteFile(image, data, 0o644))
		} else if spec.Image.Backend == hpcrun.BackendAuto {
			spec.Image.Backend = hpcrun.BackendDirectory
		}
		session := filepath.Join(t.TempDir(), "session")
		before := connections()
		for i := range rounds {
			cmd := exec.Command("/proc/self/exe", image, string(spec.Image.Backend))
			executor := []string{"memfd", "fork"}[i%2]
			cmd.Env = []string{helpVar + "=1", mark, executorVar + "=" + executor, "HPCIMG_FUSE=" + spec.Image.FUSEDevice}
			if spec.Namespaces.User {
				cmd.Env = append(cmd.Env, userVar+"=1")
			}
			if i%3 == 2 {
				cmd.Env = append(cmd.Env, sessionVar+"="+session)
			}
			mustAll(t, cmd.Start())
			time.Sleep(rand.N(40 * time.Millisecond))
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		eventually(t, "all processes ended", func() bool { return len(marked(mark)) == 0 })
		eventually(t, "the loop device went", func() bool { return !backing(image) })
		if os.Geteuid() == 0 && before >= 0 && strings.HasPrefix(string(spec.Image.Backend), "fuse") {
			eventually(t, "FUSE connections went", func() bool { return connections() <= before+8 }) // other tests have some
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

// connections counts FUSE connections of this machine; -1 where that cannot be seen.
func connections() int {
	names, err := os.ReadDir("/sys/fs/fuse/connections")
	if err != nil {
		return -1
	}
	return len(names)
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
