package mount

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fork"
	"hpcimg/internal/squashfuse"
	"hpcimg/squashfs"
)

// squashfuse looks for squashfuse_ll, and has it serve a small image for a child that looks into it.
func (p *prober) squashfuse() {
	program, err := squashfuse.Find(p.ctx, "")
	if err != nil {
		p.add(CheckSquashfuse, err, "nothing needs it: images are served by this program itself; the package squashfuse has it")
		return
	}
	if fuse := (&Report{Checks: p.checks}).Lookup(CheckFUSE); !fuse.OK {
		p.add(CheckSquashfuse, fuse.Err, fuse.Remedy)
	} else {
		p.add(CheckSquashfuse, p.trySquashfuse(program), "nothing needs it: images are served by this program itself; versions built with libfuse 3.3 or later work")
	}
	p.checks[len(p.checks)-1].Detail = program.Path + ", " + program.Version
}

// patience is how long a program that does not answer is waited for.
const patience = 5 * time.Second

func (p *prober) trySquashfuse(program *squashfuse.Program) error {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	image, err := tinyImage(ctx)
	if err != nil {
		return err
	}
	defer image.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), squashfuse.Name), os.NewFile(uintptr(pair[1]), squashfuse.Name)
	defer ours.Close()
	calls := append(fuseCalls(), fork.SendFD("socket", "fuse"), fork.Close("fuse"), fork.Open(fork.CWD, "/tmp/m/"+tinyName, unix.O_RDONLY, 0, "file"))
	ended := make(chan error, 1)
	go func() {
		err := fork.Try(ctx, namespaceCalls(!p.root, calls...), &fork.Options{Files: map[fork.FD]*os.File{"socket": theirs}})
		_ = theirs.Close() // who waits for the device waits no longer
		ended <- err
	}()
	dev, err := receiveFile(pair[0])
	if err != nil {
		if childErr := <-ended; childErr != nil {
			err = childErr
		}
		return err
	}
	server, err := program.Start(&squashfuse.Options{Device: dev, Image: image})
	_ = dev.Close()
	if err != nil {
		<-ended
		return err
	}
	defer context.AfterFunc(ctx, server.Kill)() // a child that waits for an answer does not end before
	err = <-ended
	if said := server.Wait(); said != nil {
		err = said
	}
	return err
}

const tinyName = "file"

// tinyImage is an image with a file, in memory.
func tinyImage(ctx context.Context) (*os.File, error) {
	fd, err := unix.MemfdCreate("image", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "image")
	w, err := squashfs.NewWriter(f, nil)
	if err == nil {
		err = w.Add(ctx, squashfs.Entry{Path: tinyName, Mode: 0o444}, strings.NewReader("x"))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("making an image to try it: %w", err)
	}
	return f, nil
}
