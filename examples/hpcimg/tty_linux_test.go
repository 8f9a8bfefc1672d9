package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcimg/internal/elfclosure"
	"hpcimg/internal/oracle"
)

// terminal is a shell on a terminal of its own, and somebody who types.
type terminal struct {
	t    *testing.T
	ptmx *os.File

	mu   sync.Mutex
	seen []byte
}

// newTerminal starts a shell with job control.
func newTerminal(t *testing.T, dir string) *terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	shell := exec.Command("/bin/sh", "-i")
	shell.Dir = dir
	shell.Env = append(os.Environ(), "PS1=outer> ", "ENV=", "HOME="+dir)
	shell.Stdin, shell.Stdout, shell.Stderr = tty, tty, tty
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	x := &terminal{t: t, ptmx: os.NewFile(uintptr(fd), "ptmx")}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := x.ptmx.Read(buf)
			x.mu.Lock()
			x.seen = append(x.seen, buf[:n]...)
			x.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		// What is in the session goes with the shell: nothing may be left of a test that failed.
		_ = syscall.Kill(-shell.Process.Pid, syscall.SIGHUP)
		_ = shell.Process.Kill()
		_ = shell.Wait()
		<-done
		_ = x.ptmx.Close()
	})
	return x
}

func (x *terminal) kind(text string) {
	x.t.Helper()
	if _, err := x.ptmx.WriteString(text); err != nil {
		x.t.Fatal(err)
	}
}

// expect waits until the terminal shows what the expression describes, and forgets all up to its end.
func (x *terminal) expect(expression string) {
	x.t.Helper()
	want := regexp.MustCompile(expression)
	for range 1500 {
		x.mu.Lock()
		at := want.FindIndex(x.seen)
		if at != nil {
			x.seen = x.seen[at[1]:]
		}
		x.mu.Unlock()
		if at != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.t.Fatalf("the terminal does not show %s, but %q", expression, bytes.TrimSpace(x.seen))
}

func (x *terminal) press(key, expression string) {
	x.t.Helper()
	x.kind(key)
	x.expect(expression)
}

func (x *terminal) line(text, expression string) {
	x.t.Helper()
	x.kind(text + "\n")
	x.expect(expression)
}

// ttyRoot is a directory to run things in.
func ttyRoot(t *testing.T) string {
	t.Helper()
	root := filepath.Join(oracle.UserDir(t), "root")
	programs := map[string]string{}
	var paths []string
	for _, name := range []string{"sh", "sleep", "stty", "cat"} {
		path := oracle.Tool(t, name)
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			t.Fatal(err)
		}
		programs[real] = name
		paths = append(paths, real)
	}
	files, err := elfclosure.Closure(paths...)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(root, file)
		if name, ok := programs[file]; ok {
			to = filepath.Join(root, "bin", name)
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestTerminal has somebody work at a terminal: what is typed there reaches the command as if there was no container.
func TestTerminal(t *testing.T) {
	oracle.UserNS(t)
	root := ttyRoot(t)
	for _, flags := range []string{"", "--containall "} {
		t.Run(strings.TrimSpace("exec "+flags), func(t *testing.T) {
			t.Parallel()
			command := "hpcimg exec " + flags + root + " /bin/sh -c "
			x := newTerminal(t, filepath.Dir(root))
			x.expect("outer> ")

			// The command is in the foreground, with the terminal on all three descriptors.
			x.line(command+`'test -t 0 && test -t 1 && test -t 2 && echo it is a tty; read -r a b c d pgrp e f tpgid g </proc/self/stat; test $pgrp = $tpgid && echo in the fore''ground; cat </dev/tty'`, "it is a tty\r\nin the foreground\r\n")
			x.line("typed", "typed\r\ntyped\r\n")
			x.kind("\x04")
			x.line("echo status $?", "status 0\r\n")

			// ^C and ^\ end it, and the status says so.
			x.line(command+`'echo rea''dy; exec sleep 100'`, "ready\r\n")
			time.Sleep(100 * time.Millisecond) // for what is executed last
			x.press("\x03", "outer> ")
			x.line("echo status $?", "status 130\r\n")
			x.line(command+`'trap "echo caught; exit 9" INT; echo rea''dy; while :; do sleep 0.05; done'`, "ready\r\n")
			x.press("\x03", "caught")
			x.line("echo status $?", "status 9\r\n")

			// ^Z stops it with the command line, and fg has both go on.
			x.line(command+`'echo rea''dy; read line; echo got $line'`, "ready\r\n")
			x.press("\x1a", "(?i)stopped")
			x.line("echo outer has the term''inal", "outer has the terminal\r\n")
			x.line("fg", "hpcimg exec")
			x.line("again", "got again\r\n")
			x.line("echo status $?", "status 0\r\n")

			// The window changes its size.
			x.line(command+`'trap "stty size" WINCH; echo rea''dy; for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1; done'`, "ready\r\n")
			if err := unix.IoctlSetWinsize(int(x.ptmx.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 41, Col: 123}); err != nil {
				t.Error(err)
			}
			x.expect("41 123\r\n")
			x.expect("outer> ")
		})
	}
	t.Run("shell", func(t *testing.T) {
		t.Parallel()
		x := newTerminal(t, filepath.Dir(root))
		x.expect("outer> ")
		x.line("PS1='another> ' hpcimg shell "+root, "hpcimg> ")
		// Jobs of the shell inside are its own.
		x.line("sleep 100", "sleep 100\r\n")
		time.Sleep(200 * time.Millisecond)
		x.press("\x1a", "(?i)stopped")
		x.line("jobs", "(?i)stopped")
		x.line("fg", "sleep 100\r\n")
		time.Sleep(200 * time.Millisecond)
		x.press("\x03", "hpcimg> ")
		x.line("echo status $?", "status 130\r\nhpcimg> ")
		x.press("\x03", "hpcimg> ") // at the prompt: nothing happens
		x.line("exit 5", "outer> ")
		x.line("echo status $?", "status 5\r\n")
		x.line("cat", "cat\r\n")
		x.line("the outer shell has its terminal back", "(?s)back\r\n.*back\r\n")
		x.kind("\x04")
		x.expect("outer> ")
	})
}

// TestInterrupts sends signals that no terminal has sent: they are for the command. It has run for a while by then: an interrupt before this
// process knows that it runs ends the start.
func TestInterrupts(t *testing.T) {
	oracle.UserNS(t)
	root := ttyRoot(t)
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM} {
		cmd := exec.Command("hpcimg", "exec", root, "/bin/sh", "-c", `trap 'echo caught; exit 9' INT QUIT TERM; sleep 1; echo ready; while :; do sleep 0.05; done`)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timeout := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		ready := make([]byte, len("ready\n"))
		_, readErr := io.ReadFull(out, ready)
		killErr := cmd.Process.Signal(s)
		rest, restErr := io.ReadAll(out)
		_ = cmd.Wait()
		timeout.Stop()
		if err := errors.Join(readErr, killErr, restErr); err != nil || string(rest) != "caught\n" || cmd.ProcessState.ExitCode() != 9 {
			t.Errorf("%v: %q, %v, %v", s, rest, cmd.ProcessState, err)
		}
	}
}
