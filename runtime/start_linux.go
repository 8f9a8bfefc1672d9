package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	goruntime "runtime"
	"slices"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fork"
	"hpcimg/mount"
)

// resources are what a start needs until the command runs, and what it leaves to the end of the command.
type resources struct {
	loop   *mount.LoopDevice
	null   *os.File
	parent *os.File // ends of the socket for the unpacked image
	child  *os.File
	remove func()
	files  map[fork.FD]*os.File
	calls  []fork.Call
}

func (r *resources) close() {
	for _, f := range []*os.File{r.null, r.parent, r.child} {
		if f != nil {
			f.Close()
		}
	}
	if r.loop != nil {
		r.loop.Close()
	}
}

// executors are those of package fork.
func executors(e Executor) (fork.Executor, error) {
	switch e {
	case ExecutorAuto:
		return fork.ExecutorAuto, nil
	case ExecutorMemfd:
		return fork.ExecutorMemfd, nil
	case ExecutorFork:
		return fork.ExecutorFork, nil
	}
	return 0, fmt.Errorf("runtime: executor %q: %w", e, fs.ErrInvalid)
}

func (p *Plan) start(ctx context.Context, o *StartOptions) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	executor, err := executors(o.Executor)
	if err != nil {
		return nil, err
	}
	r, err := p.prepare(ctx, [3]*os.File{o.Stdin, o.Stdout, o.Stderr})
	defer r.close()
	if err != nil {
		if r.remove != nil {
			r.remove()
		}
		return nil, err
	}
	proc, child, err := launch(r.calls, &fork.Options{Files: r.files, Clone: p.clone, Executor: executor}, r.remove)
	if err != nil {
		return nil, err
	}
	if r.child != nil {
		r.child.Close() // the copy of the child is the only one now, and closed if it fails
		if err := p.serve(ctx, child.PID, r.parent); err != nil && !errors.Is(err, errNoDescriptor) {
			child.Close()
			_ = proc.Kill()
			_, _ = proc.Wait()
			return nil, err
		}
	}
	if err := child.Ready(ctx); err != nil {
		_ = proc.Kill()
		_, _ = proc.Wait()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, setupError(err)
	}
	return proc, nil
}

func setupError(err error) error {
	e, ok := errors.AsType[*fork.Error](err)
	if !ok {
		return fmt.Errorf("runtime: %w", err)
	}
	return &SetupError{Index: e.Index, Call: e.Call.String(), Exec: e.Call.Exec(), Err: e.Err}
}

// prepare opens what the table refers to. It returns what it has opened even if it fails.
func (p *Plan) prepare(ctx context.Context, stdio [3]*os.File) (*resources, error) {
	r := &resources{files: make(map[fork.FD]*os.File), calls: p.calls}
	var err error
	for i, name := range []fork.FD{"stdin", "stdout", "stderr"} {
		if r.files[name] = stdio[i]; stdio[i] != nil {
			continue
		}
		if r.null == nil {
			if r.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
				return r, err
			}
		}
		r.files[name] = r.null
	}
	if err := p.unchanged(); err != nil {
		return r, err
	}
	if err := p.ask(ctx); err != nil {
		return r, err
	}
	if p.idMaps[users] != nil || p.backend == BackendFUSE || p.backend == BackendExtract && p.extractDir == "" {
		if err := r.socketpair(); err != nil {
			return r, err
		}
	}
	switch {
	case p.backend == BackendKernel:
		if r.loop, err = mount.Loop(ctx, p.file, &mount.Options{Offset: p.offset, Size: p.size}); err == nil {
			r.files["loop"] = r.loop.File()
		}
	case p.backend == BackendExtract && p.extractDir != "":
		var dir string
		if dir, r.remove, err = p.unpackOnDisk(ctx); err == nil {
			r.calls = slices.Clone(p.calls)
			r.calls[p.extracted] = fork.OpenTree(dir, true, "image")
		}
	}
	return r, err
}

func (r *resources) socketpair() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	r.parent, r.child = os.NewFile(uintptr(fds[0]), "sync"), os.NewFile(uintptr(fds[1]), "sync")
	r.files["sync"] = r.child
	return nil
}

// launch forks on a thread that stays until the process has ended: the kernel sends the parent death signal when the
// thread that forked ends, not the process.
func launch(calls []fork.Call, o *fork.Options, cleanup func()) (*Process, *fork.Child, error) {
	type result struct {
		proc  *Process
		child *fork.Child
		err   error
	}
	started := make(chan result)
	go func() {
		goruntime.LockOSThread()
		defer goruntime.UnlockOSThread()
		if cleanup == nil {
			cleanup = func() {}
		}
		child, err := fork.Start(calls, o)
		if err != nil {
			cleanup()
			started <- result{err: fmt.Errorf("runtime: %w", err)}
			return
		}
		osProc, _ := os.FindProcess(child.PID) // never fails here
		proc := &Process{pid: child.PID, process: osProc, executor: ExecutorMemfd, done: make(chan struct{})}
		if child.Executor == fork.ExecutorFork {
			proc.executor = ExecutorFork
		}
		started <- result{proc, child, nil}
		proc.state, proc.err = osProc.Wait()
		cleanup()
		close(proc.done)
	}()
	r := <-started
	return r.proc, r.child, r.err
}
