package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

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
func runSpec(ctx context.Context, spec *hpcrun.Spec, session *hpcrun.Session, std stdio) error {
	plan, err := hpcrun.Compile(ctx, spec)
	if err != nil {
		return setupError(err)
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, passedOn()...)
	defer signal.Stop(signals)
	fromTerminal := make(chan os.Signal, 1)
	signal.Notify(fromTerminal, append(heeded(syscall.SIGINT), syscall.SIGQUIT)...)
	defer signal.Stop(fromTerminal)

	process, err := plan.Start(ctx, &hpcrun.StartOptions{Stdin: asFile(std.in), Stdout: asFile(std.out), Stderr: asFile(std.err), Session: session})
	if err != nil {
		return &exitError{code: hpcrun.ExitCode(err), err: programError(spec, err)}
	}
	go process.Forward(signals)
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

// programError names the program that could not be executed as the caller has
// named it, and not the last of the places where it was looked for.
func programError(spec *hpcrun.Spec, err error) error {
	setup, ok := errors.AsType[*hpcrun.SetupError](err)
	if !ok || !setup.Exec {
		return err
	}
	name := spec.Args[0]
	if errors.Is(err, fs.ErrNotExist) && !strings.Contains(name, "/") {
		return fmt.Errorf("%s: no such program in the image", name)
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	return fmt.Errorf("%s: %w", name, err)
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
