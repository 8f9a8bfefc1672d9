package squashfuse

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fork"
)

// Start starts the program. Device and image may be closed afterwards. It returns when the program has been executed: what that
// fails with is for Wait to say, and whoever uses the mount sees it end.
func (p *Program) Start(o *Options) (*Server, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	said, says, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer says.Close()
	child, err := fork.Start(p.calls(o), &fork.Options{Files: map[fork.FD]*os.File{"device": o.Device, "image": o.Image, "null": null, "says": says}})
	if err != nil {
		said.Close()
		return nil, err
	}
	process, _ := os.FindProcess(child.PID) // never fails here
	says.Close()
	s := &Server{program: p, process: process, done: make(chan struct{})}
	go s.wait(said)
	if err := child.Ready(context.Background()); err != nil {
		<-s.done
		return nil, fmt.Errorf("%s: %w", p.Path, err)
	}
	return s, nil
}

func (p *Program) calls(o *Options) []fork.Call {
	options := "offset=" + strconv.FormatInt(o.Offset, 10)
	if p.SetsOwner && o.UID != 0 {
		options += ",uid=" + strconv.Itoa(o.UID)
	}
	if p.SetsOwner && o.GID != 0 {
		options += ",gid=" + strconv.Itoa(o.GID)
	}
	argv := []string{Name, "-f", "-o", options, fmt.Sprintf("/proc/self/fd/%d", o.Image.Fd()), fmt.Sprintf("/dev/fd/%d", o.Device.Fd())}
	calls := []fork.Call{fork.Setsid()}
	if os.Geteuid() == 0 {
		calls = append(calls, fork.Unshare(unix.CLONE_NEWNS).Lax(), fork.Mount(fork.At(""), fork.At("/"), "", unix.MS_REC|unix.MS_SLAVE).Lax())
	}
	calls = append(
		calls,
		fork.Keep("null", "stdin"), fork.Keep("says", "stderr"),
		fork.Dup("stdin", 0), fork.Dup("stdin", 1), fork.Dup("stderr", 2),
		fork.CloseOthers(3).Lax(), fork.Inherit("device"), fork.Inherit("image"),
		fork.Chdir("/"), fork.NoNewPrivs(), fork.RestoreNoFile(), fork.RestoreSignals(),
	)
	return append(calls, fork.Exec([]string{p.Path}, argv, nil)...)
}
