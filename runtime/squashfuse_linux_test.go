package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hpcimg/internal/oracle"
	hpcrun "hpcimg/runtime"
)

// withProgram is a specification whose image is served by a script: it prints the help of squashfuse_ll, and does something else when
// it is to serve.
func withProgram(t testing.TB, otherwise string) hpcrun.Spec {
	t.Helper()
	squashfuse(t)
	program := filepath.Join(t.TempDir(), "program")
	text := fmt.Sprintf("#!/bin/sh\n[ \"$1\" != -h ] || { echo 'squashfuse 9.9 (c) clone_fd uid='; exit 2; }\n%s\n", otherwise)
	writeProgram(t, program, text)
	return hpcrun.Spec{
		Image: hpcrun.Image{Path: imageFile(), Backend: hpcrun.BackendSquashfuse, FUSEDevice: fuseDevice(t), Squashfuse: program},
		Args:  []string{"true"}, Env: []string{"PATH=/bin"}, Namespaces: hpcrun.Namespaces{User: true},
	}
}

// writeProgram writes a script while nobody forks: a child with a copy of the descriptor would keep it from being executed.
func writeProgram(t testing.TB, name, text string) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	mustAll(t, os.WriteFile(name, []byte(text), 0o755))
}

// TestSquashfuseFails has programs that do not serve: the error has what they say, and nothing is left of them.
func TestSquashfuseFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ otherwise, want string }{
		"at once":          {"echo no such luck >&2; exit 1", "exit status 1: no such luck"},
		"without a word":   {"exit 3", "exit status 3"},
		"by a signal":      {"kill -11 $$", "signal: segmentation fault"},
		"while it is read": {`read -r request </dev/fd/"${6##*/}"; echo read >&2; exit 1`, "exit status 1"},
	} {
		spec := withProgram(t, test.otherwise)
		for _, executor := range []hpcrun.Executor{hpcrun.ExecutorMemfd, hpcrun.ExecutorFork} {
			_, err := bounded(t, spec, executor)
			e, ok := errors.AsType[*hpcrun.SetupError](err)
			if !ok || e.Exec || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), spec.Image.Squashfuse) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	// It takes a request, and never answers: who asked could not even be killed before it ends.
	pidFile := filepath.Join(t.TempDir(), "pid")
	spec := withProgram(t, `echo $$ >`+pidFile+`; dd of=/dev/null bs=1M count=1 <"$6" 2>/dev/null; exec sleep 1000`)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := hpcrun.NewCmd(&spec).Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("does not answer: %v", err)
	}
	data, err := os.ReadFile(pidFile)
	mustAll(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	mustAll(t, err)
	eventually(t, "the server ended", func() bool { return !alive(pid) })
}

// TestSquashfuseKilled kills the server while the command uses the image: that fails, and the reason is told.
func TestSquashfuseKilled(t *testing.T) {
	t.Parallel()
	spec, pidFile := withProgram(t, ""), filepath.Join(t.TempDir(), "pid")
	program := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = -h ] || echo $$ >%s\nexec %s \"$@\"\n", pidFile, oracle.Tool(t, "squashfuse_ll"))
	writeProgram(t, spec.Image.Squashfuse, program)
	spec.Args = sh("echo ready; read line; cat /opt/text")
	start := func() (*hpcrun.Cmd, func()) {
		cmd := hpcrun.NewCmd(&spec)
		in, err := cmd.StdinPipe()
		mustAll(t, err)
		out, err := cmd.StdoutPipe()
		mustAll(t, err, cmd.Start(t.Context()))
		ready := make([]byte, 6)
		_, err = out.Read(ready)
		mustAll(t, err)
		return cmd, func() { in.Close() }
	}
	server := func() int {
		data, err := os.ReadFile(pidFile)
		mustAll(t, err)
		pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
		mustAll(t, err)
		return pid
	}
	cmd, goOn := start()
	mustAll(t, syscall.Kill(server(), syscall.SIGKILL))
	goOn()
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "signal: killed") || !strings.Contains(err.Error(), spec.Image.Squashfuse) || cmd.ProcessState.Success() {
		t.Errorf("killed: %v, %v", err, cmd.ProcessState)
	}

	// The command is killed: the server ends by itself. Interrupts of a terminal do not end it before.
	cmd, _ = start()
	pid := server()
	mustAll(t, cmd.Process.Kill())
	if err := cmd.Wait(); hpcrun.ExitCode(err) != 128+9 {
		t.Errorf("the command was killed: %v", err)
	}
	eventually(t, "the server ended", func() bool { return !alive(pid) })
}

// TestSquashfuseRefused: no program, no device, an image that a parser in C had better not see.
func TestSquashfuseRefused(t *testing.T) {
	t.Parallel()
	spec := withProgram(t, "exit 1")
	spec.Image.Squashfuse = "no-such-program"
	if _, err := hpcrun.Compile(t.Context(), &spec); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("no program: %v", err)
	}
	spec = withProgram(t, "exit 1")
	spec.Image.FUSEDevice = t.TempDir() + "/fuse"
	if _, err := hpcrun.Compile(t.Context(), &spec); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "modprobe fuse") {
		t.Errorf("no device: %v", err)
	}
	spec = withProgram(t, "exit 1")
	data, err := os.ReadFile(imageFile())
	mustAll(t, err)
	data[4]++ // one more inode than there are
	spec.Image.Path = filepath.Join(t.TempDir(), "image")
	mustAll(t, os.WriteFile(spec.Image.Path, data, 0o644))
	if _, err := hpcrun.Compile(t.Context(), &spec); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "not given to squashfuse_ll, unless it is trusted") {
		t.Errorf("unsound: %v", err)
	}
	spec.Image.Trusted = true
	plan, err := hpcrun.Compile(t.Context(), &spec)
	mustAll(t, err)
	if plan.Backend() != hpcrun.BackendSquashfuse || !strings.Contains(plan.String(), spec.Image.Squashfuse+", squashfuse 9.9") {
		t.Errorf("%s", plan)
	}
	mustAll(t, plan.Close())
	spec.Image.Path = rootDir()
	if _, err := hpcrun.Compile(t.Context(), &spec); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a directory: %v", err)
	}
}

// TestSquashfuseExtras has both servers in one container: images that are bound are served by this process.
func TestSquashfuseExtras(t *testing.T) {
	t.Parallel()
	squashfuse(t)
	spec := hpcrun.Spec{
		Image: hpcrun.Image{Path: imageFile(), Backend: hpcrun.BackendSquashfuse, FUSEDevice: fuseDevice(t)}, Env: []string{"PATH=/bin"}, Namespaces: hpcrun.Namespaces{User: true},
		Binds: []hpcrun.Bind{{Source: imageFile(), Target: "/mnt/again", ImageDir: "/etc"}}, Args: sh("cat /etc/marker /mnt/again/marker"),
	}
	if out := mustOutput(t, spec); out != "image\nimage\n" {
		t.Errorf("%q", out)
	}
}
