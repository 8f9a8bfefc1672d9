package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	hpcrun "hpcimg/runtime"
)

// dryRun prints what running spec would do.
func dryRun(cmd *cobra.Command, spec *hpcrun.Spec) error {
	plan, err := hpcrun.Compile(cmd.Context(), spec)
	if err != nil {
		return setupError(err)
	}
	out := cmd.OutOrStdout()
	for _, inj := range spec.Injections {
		for _, note := range inj.Notes {
			fmt.Fprintf(out, "# %s: %s\n", inj.Name, note)
		}
	}
	_, err = fmt.Fprint(out, plan)
	return err
}

// passedOn are the signals that a scheduler or a person sends to this process
// and means for the command. What a terminal sends reaches the command by
// itself: those are only kept from ending this process before it. SIGURG is not
// among them: the Go runtime sends it to itself all the time.
func passedOn() []os.Signal {
	return heeded(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGCONT, syscall.SIGWINCH,
		syscall.SIGALRM, syscall.SIGXCPU)
}

// runSpec runs spec and ends with the exit status of its command. With a
// session, it stays as long as others need it, unless it is told to end.
func (f *flags) runSpec(ctx context.Context, l *localImage, spec *hpcrun.Spec, session *hpcrun.Session) error {
	spec.Image.OnError = f.complain(l, maxDamage)
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, passedOn()...)
	defer signal.Stop(signals)
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, append(heeded(syscall.SIGINT), syscall.SIGQUIT)...)
	defer signal.Stop(interrupts)

	process, err := f.start(ctx, spec, session)
	if err != nil {
		return &exitError{code: hpcrun.ExitCode(err), err: programError(l, spec, err)}
	}
	go process.Forward(signals)
	go forwardInterrupts(process, interrupts)
	state, err := process.Wait()
	if err != nil {
		return setupError(err)
	}
	if session != nil {
		_ = session.Wait(ctx) // others may depend on what this process serves
	}
	if code := exitStatus(state); code != exitOK {
		return &exitError{code: code}
	}
	return nil
}

// forwardInterrupts passes on interrupts that no terminal has sent: those it sends to all processes in its foreground, the command among them, and
// to no others.
func forwardInterrupts(process *hpcrun.Process, interrupts <-chan os.Signal) {
	for {
		select {
		case <-process.Done():
			return
		case s := <-interrupts:
			if !inForeground() {
				_ = process.Signal(s)
			}
		}
	}
}

// inForeground reports whether this process is in the foreground of its terminal.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false // it has none
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// maxDamage is how often the output of a command is interrupted by what is wrong with its image.
const maxDamage = 3

// complain returns what tells of damage in the image, at most so often: programs see errors of input and output, and cannot say more.
func (f *flags) complain(l *localImage, most int32) func(error) {
	var complaints atomic.Int32
	return func(err error) {
		if complaints.Add(1) <= most {
			printError(f.std.err, fmt.Errorf("%s: damaged, or changed while it is used: %w", l.path, err))
		}
	}
}

// noteUnpacking says at a terminal why a start takes so long. What programs write stays theirs.
func (f *flags) noteUnpacking(spec *hpcrun.Spec, plan *hpcrun.Plan) {
	if plan.Backend() != hpcrun.BackendExtract || spec.Image.Backend != hpcrun.BackendAuto || spec.Image.ExtractDir != "" || f.quiet || !f.isTerminal(f.std.err) {
		return
	}
	fmt.Fprintf(f.std.err, "hpcimg: note: the image is unpacked into memory for this command: %s\n", printable(strings.Join(plan.Notes(), "; ")))
}

// start joins a session that goes on already, or makes a plan.
func (f *flags) start(ctx context.Context, spec *hpcrun.Spec, session *hpcrun.Session) (*hpcrun.Process, error) {
	o := &hpcrun.StartOptions{Stdin: asFile(f.std.in), Stdout: asFile(f.std.out), Stderr: asFile(f.std.err), Session: session}
	if session != nil {
		if process, err := session.Join(ctx, spec, o); process != nil || err != nil {
			return process, err
		}
	}
	plan, err := hpcrun.Compile(ctx, spec)
	if err != nil {
		return nil, err
	}
	defer plan.Close() // what runs has what it needs
	f.noteUnpacking(spec, plan)
	return plan.Start(ctx, o)
}

// programError names the program that could not be executed as the caller has
// named it, and not the last of the places where it was looked for.
func programError(l *localImage, spec *hpcrun.Spec, err error) error {
	setup, ok := errors.AsType[*hpcrun.SetupError](err)
	if !ok || !setup.Exec {
		return err
	}
	name := spec.Args[0]
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && l.hasProgram(spec, name):
		return fmt.Errorf("%s: what executes it is not in the image, the program after #! or the dynamic linker: %w", name, err)
	case errors.Is(err, fs.ErrNotExist) && !strings.Contains(name, "/"):
		return fmt.Errorf("%s: no such program in the image", name)
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%s: %w: %s", name, err, l.wrongFormat())
	}
	return fmt.Errorf("%s: %w", name, err)
}

// hasProgram reports whether name is there, in the image or among what it shows of the host.
func (l *localImage) hasProgram(spec *hpcrun.Spec, name string) bool {
	if strings.Contains(name, "/") {
		info, err := os.Stat(name)
		return path.IsAbs(name) && l.has(strings.TrimPrefix(path.Clean(name), "/")) || !path.IsAbs(name) && spec.Dir == "" && err == nil && !info.IsDir()
	}
	for _, kv := range spec.Env {
		if value, ok := strings.CutPrefix(kv, "PATH="); ok {
			return slices.ContainsFunc(strings.Split(value, ":"), func(dir string) bool {
				return path.IsAbs(dir) && l.has(path.Join(dir, name)[1:])
			})
		}
	}
	return false
}

// wrongFormat says why nothing can be executed that is there.
func (l *localImage) wrongFormat() string {
	if l.sif != nil {
		if o, err := l.sif.Primary(); err == nil && o.Partition.Arch != "" && o.Partition.Arch != runtime.GOARCH {
			return fmt.Sprintf("the image is for %s, and this machine is %s", o.Partition.Arch, runtime.GOARCH)
		}
	}
	return "neither a program for this machine nor a script that begins with #!"
}

// exitStatus is what a shell makes of the end of a process.
func exitStatus(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}

// asFile returns the file behind a standard stream. Streams of a test that are
// no files are not handed to a command.
func asFile(stream any) *os.File {
	file, _ := stream.(*os.File)
	return file
}
