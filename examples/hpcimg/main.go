package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// exec and run pass the other signals on themselves: a terminal's interrupt
	// reaches the contained program directly, and the command must outlive it.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Environ()})
	stop()
	os.Exit(code)
}
