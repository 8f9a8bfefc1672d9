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
	ctx, stop := context.WithCancel(context.Background())
	if signals := heeded(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP); len(signals) > 0 {
		ctx, stop = signal.NotifyContext(ctx, signals...)
		// A second one need not wait for what the first could not interrupt.
		context.AfterFunc(ctx, stop)
	}
	code := run(ctx, os.Args[1:], stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Environ()})
	stop()
	os.Exit(code)
}

// heeded returns those of the signals that were not ignored when this process
// started. nohup has SIGHUP ignored, and a script the interrupts of what it
// starts in the background: asking for such a signal would undo that, here and
// in the command that is run.
func heeded(signals ...os.Signal) []os.Signal {
	return slices.DeleteFunc(signals, signal.Ignored)
}
