package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

const usage = `usage: bench COMMAND [flags]

  squashfs       writing, extracting and memory, beside mksquashfs, tar2sqfs and unsquashfs
  images         make the images that conversions are measured with; root makes them, once
  patch-tuesday  converting five versions of an image, beside Apptainer, SingularityCE, umoci and mksquashfs
  start          running true in an image, beside bwrap, ch-run and crun
  segments       pushing and pulling the versions of an image in one piece and in segments
  read           reading mounted images, beside the kernel and squashfuse_ll; root only

bench COMMAND -h lists the flags.
`

// errUsage says that the flag package has explained what is wrong.
var errUsage = errors.New("usage")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := errUsage
	switch {
	case len(args) > 0 && args[0] == "squashfs":
		err = runSquashfs(ctx, args[1:], stdout, stderr)
	case len(args) > 0 && args[0] == "images":
		err = runImages(ctx, args[1:], stdout, stderr)
	case len(args) > 0 && args[0] == "patch-tuesday":
		err = runTuesday(ctx, args[1:], stdout, stderr)
	case len(args) > 0 && args[0] == "start":
		err = runStart(ctx, args[1:], stdout, stderr)
	case len(args) > 0 && args[0] == "segments":
		err = runSegments(ctx, args[1:], stdout, stderr)
	case len(args) > 0 && args[0] == "read":
		err = runRead(ctx, args[1:], stdout, stderr)
	case len(args) > 0 && args[0] == childCommand:
		err = runChild(ctx, args[1:], stdout, stderr)
	default:
		fmt.Fprint(stderr, usage)
	}
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "bench: interrupted")
		return 1
	default:
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return 1
	}
}

// parse parses flags and says so when there is more than it knows.
func parse(f *flag.FlagSet, args []string, rest int) error {
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if f.NArg() != rest {
		fmt.Fprintf(f.Output(), "bench %s: %d arguments instead of %d\n", f.Name(), f.NArg(), rest)
		return errUsage
	}
	return nil
}
