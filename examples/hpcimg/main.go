package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

func main() {
	// exec and run pass the other signals on themselves: a terminal's interrupt
	// reaches the contained program directly, and the command must outlive it.
	ctx, stop := untilSignal(context.Background(), heeded(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)...)
	code := run(ctx, os.Args[1:], stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Environ()})
	stop()
	os.Exit(code)
}

// signalError is why a command ends that somebody has stopped.
type signalError struct{ signal os.Signal }

func (e *signalError) Error() string { return "stopped by a signal: " + e.signal.String() }

// status is the exit status that a shell reports of a process which the signal
// has killed.
func (e *signalError) status() int {
	n, _ := e.signal.(syscall.Signal)
	return 128 + int(n)
}

// untilSignal returns a context that the first of the signals ends, with a
// *signalError as its cause. A second one need not wait for what the first could
// not interrupt: it kills.
func untilSignal(parent context.Context, signals ...os.Signal) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	if len(signals) == 0 {
		return ctx, func() { cancel(nil) }
	}
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, signals...)
	go func() {
		select {
		case s := <-caught:
			signal.Stop(caught)
			cancel(&signalError{s})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(caught)
		cancel(nil)
	}
}

// heeded returns those of the signals that were not ignored when this process
// started. nohup has SIGHUP ignored, and a script the interrupts of what it
// starts in the background: asking for such a signal would undo that, here and
// in the command that is run.
func heeded(signals ...os.Signal) []os.Signal {
	return slices.DeleteFunc(signals, signal.Ignored)
}
