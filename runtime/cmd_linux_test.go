package runtime_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	hpcrun "hpcimg/runtime"
)

func cmdOf(t *testing.T, args ...string) *hpcrun.Cmd {
	namespaces(t)
	return hpcrun.NewCmd(&hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Args: args, Env: []string{"PATH=/bin"}})
}

func TestCmdStreams(t *testing.T) {
	t.Parallel()
	cmd := cmdOf(t, sh("cat; echo err >&2; exit 3")...)
	cmd.Stdin = strings.NewReader("in\n")
	out, err := cmd.Output(t.Context())
	e, ok := errors.AsType[*exec.ExitError](err)
	if string(out) != "in\n" || !ok || e.ExitCode() != 3 || string(e.Stderr) != "err\n" || cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("Output: %q, %v", out, err)
	}
	out, err = cmdOf(t, sh("echo out; echo err >&2")...).CombinedOutput(t.Context())
	if err != nil || string(out) != "out\nerr\n" {
		t.Errorf("CombinedOutput: %q, %v", out, err)
	}
	var stdout, stderr bytes.Buffer
	cmd = cmdOf(t, sh("echo out; echo err >&2")...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(t.Context()); err != nil || stdout.String() != "out\n" || stderr.String() != "err\n" {
		t.Errorf("Run: %q, %q, %v", &stdout, &stderr, err)
	}
	// A command need not read its input, and may leave others its output.
	cmd = cmdOf(t, "true")
	cmd.Stdin = bytes.NewReader(make([]byte, 1<<20))
	if err := cmd.Run(t.Context()); err != nil {
		t.Errorf("unread input: %v", err)
	}
	cmd = cmdOf(t, sh("sleep 30 & echo started")...)
	cmd.Stdout, cmd.WaitDelay = &stdout, 100*time.Millisecond
	if err := cmd.Run(t.Context()); !errors.Is(err, exec.ErrWaitDelay) {
		t.Errorf("output held open: %v", err)
	}
}

func TestCmdPipes(t *testing.T) {
	t.Parallel()
	cmd := cmdOf(t, sh("cat; echo err >&2")...)
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	errs, err3 := cmd.StderrPipe()
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "through"); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	data, _ := io.ReadAll(out)
	text, _ := io.ReadAll(errs)
	if err := cmd.Wait(); err != nil || string(data) != "through" || string(text) != "err\n" {
		t.Errorf("%q, %q, %v", data, text, err)
	}
	if cmd.Start(t.Context()) == nil || cmd.Wait() == nil {
		t.Error("a Cmd was used twice")
	}
	if _, err := cmd.StdoutPipe(); err == nil {
		t.Error("pipe after the start")
	}
}

func TestCmdFails(t *testing.T) {
	t.Parallel()
	if err := new(hpcrun.Cmd).Run(t.Context()); err == nil {
		t.Error("ran nothing")
	}
	cmd := cmdOf(t, "no-such-program")
	cmd.Stdout = new(bytes.Buffer)
	if err := cmd.Run(t.Context()); hpcrun.ExitCode(err) != hpcrun.ExitNotFound {
		t.Errorf("got %v", err)
	}
	cmd.Stdout = os.Stdout
	if _, err := cmd.Output(t.Context()); err == nil {
		t.Error("Output with Stdout set")
	}
	if _, err := cmd.CombinedOutput(t.Context()); err == nil {
		t.Error("CombinedOutput with Stdout set")
	}
}

// TestCancelGently: Cancel is called when the context ends, and WaitDelay bounds how long the command may take over it.
func TestCancelGently(t *testing.T) {
	t.Parallel()
	for script, code := range map[string]int{"trap 'exit 9' TERM; echo r; while :; do sleep 0.05; done": 9, "trap '' TERM; echo r; while :; do sleep 0.05; done": -1} {
		ctx, cancel := context.WithCancel(t.Context())
		cmd := cmdOf(t, sh(script)...)
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = time.Second
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(ctx); err != nil {
			t.Fatal(err)
		}
		_, _ = out.Read(make([]byte, 2))
		cancel()
		if err := cmd.Wait(); !errors.Is(err, ctx.Err()) || cmd.ProcessState.ExitCode() != code {
			t.Errorf("%s: %v, %v", script, err, cmd.ProcessState)
		}
	}
}
