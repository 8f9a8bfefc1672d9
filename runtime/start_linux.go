package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	goruntime "runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fork"
	"hpcimg/mount"
)

// resources are what a start needs until the command runs, and what it leaves to the end of the command.
type resources struct {
	mount  *mount.DetachedMount // of BackendKernel
	null   *os.File
	parent *os.File // ends of the socket for the unpacked image
	child  *os.File
	dir    *os.File // that the child has to open for the image, if it is compared
	remove func()
	files  map[fork.FD]*os.File
	calls  []fork.Call
	served func() (*servedTree, error) // always the same, made when it is wanted first
}

func (r *resources) close() {
	for _, f := range []*os.File{r.null, r.parent, r.child, r.dir} {
		if f != nil {
			f.Close()
		}
	}
	if r.mount != nil {
		r.mount.Close() // the child has given it its place, or it goes
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
	if !p.open.begin() {
		return nil, fmt.Errorf("runtime: the plan is closed: %w", fs.ErrClosed)
	}
	defer func() { _ = p.open.letGo() }()
	executor, err := executors(o.Executor)
	switch {
	case err != nil:
		return nil, err
	case o.Session == nil:
		return p.startAlone(ctx, o, executor, nil)
	case p.joined == nil:
		return nil, fmt.Errorf("runtime: the plan cannot be started in a session, since its specification is not Shared: %w", fs.ErrInvalid)
	}
	if !o.Session.open.begin() {
		return nil, o.Session.fail("", os.ErrClosed)
	}
	defer func() { _ = o.Session.open.letGo() }()
	return p.startIn(ctx, o, executor)
}

// startAlone makes all that the plan says. With lead, others can have it too: lead is called when it is there.
func (p *Plan) startAlone(ctx context.Context, o *StartOptions, executor fork.Executor, lead func(*shared) error) (*Process, error) {
	r, err := p.prepare(ctx, o)
	defer r.close()
	if err != nil {
		if r.remove != nil {
			r.remove()
		}
		return nil, err
	}
	if p.program != "" { // nobody has to be asked about the image any more
		p.open.hold()
		go func() {
			if s, err := r.served(); err == nil {
				preload(s.tree, s.reader, p.program)
			}
			_ = p.open.letGo()
		}()
	}
	proc, child, err := launch(r.calls, &fork.Options{Files: r.files, Clone: p.clone, Executor: executor}, r.remove)
	if err != nil {
		return nil, err
	}
	if r.child != nil {
		r.child.Close() // the copy of the child is the only one now, and closed if it fails
		held := &shared{}
		err := p.serve(ctx, proc, r, held)
		if err == nil && lead != nil {
			err = lead(held)
		} else {
			held.close()
		}
		if err != nil && !errors.Is(err, errNoDescriptor) {
			child.Close()
			proc.abandon()
			return nil, err
		}
	}
	if err := proc.ready(ctx, child); err != nil {
		return nil, reason(proc, err)
	}
	return proc, nil
}

// reason adds what the server of the image has said, if it has ended: what failed then was for want of it.
func reason(proc *Process, err error) error {
	e, ok := errors.AsType[*SetupError](err)
	if said := proc.served(); ok && said != nil {
		e.Advice = "the image's server has ended: " + said.Error()
	}
	return err
}

// ready waits until the command is executed. Without it, nothing of the process remains.
func (p *Process) ready(ctx context.Context, child *fork.Child) error {
	err := child.Ready(ctx)
	if err == nil {
		return nil
	}
	p.abandon()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return setupError(err)
}

// reap waits for the end. The first use of an os.Process in a program starts a child to try something out, so it happens
// while the command is being set up, and signals do without one.
func (p *Process) reap() {
	process, _ := os.FindProcess(p.pid) // never fails here
	for {
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_PID, p.pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != unix.EINTR {
			break
		}
	}
	p.mu.Lock()
	p.state, p.err = process.Wait()
	p.reaped = true
	p.mu.Unlock()
	// The server has no use any more, unless others look at the image: waited for, it is not left to whoever reaps orphans.
	if err := p.served(); err != nil && p.err == nil && !p.state.Success() {
		p.err = fmt.Errorf("runtime: the image's server ended before the command, which did so with %v: %w", p.state, err)
	}
}

// signal sends a signal to a process that has not been reaped: its number is nobody else's.
func (p *Process) signal(sig os.Signal) error {
	number, ok := sig.(unix.Signal)
	if !ok {
		return fmt.Errorf("runtime: signal %v: %w", sig, errors.ErrUnsupported)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return os.ErrProcessDone
	}
	return os.NewSyscallError("kill", unix.Kill(p.pid, number))
}

func setupError(err error) error {
	e, ok := errors.AsType[*fork.Error](err)
	if !ok {
		return fmt.Errorf("runtime: %w", err)
	}
	return &SetupError{Index: e.Index, Call: e.Call.String(), Exec: e.Call.Exec(), Advice: advice(e), Err: e.Err}
}

// prepare opens what the table refers to. It returns what it has opened even if it fails.
func (p *Plan) prepare(ctx context.Context, o *StartOptions) (*resources, error) {
	r, err := p.admitted(ctx, o)
	if err != nil {
		return r, err
	}
	r.calls, r.served = p.calls, sync.OnceValues(p.serveTree)
	if p.joined != nil || p.compares || p.idMaps[users] != nil || p.served() || p.backend == BackendSquashfuse || p.backend == BackendExtract && p.extractDir == "" {
		if err := r.socketpair(); err != nil {
			return r, err
		}
	}
	switch {
	case p.backend == BackendKernel:
		if r.mount, err = mount.Detached(ctx, p.file, &mount.Options{Offset: p.offset, Size: p.size}); err != nil {
			return r, fmt.Errorf("runtime: have the kernel mount the image: %w", err)
		}
		r.files["image"] = r.mount.File()
	case p.backend == BackendExtract && p.extractDir != "":
		var dir string
		if dir, r.dir, r.remove, err = p.unpackOnDisk(ctx); err == nil {
			r.calls = slices.Clone(p.calls)
			r.calls[p.extracted] = fork.OpenTree(dir, true, "image")
		}
	}
	return r, err
}

// admitted opens the command's streams, and has the image looked at once more.
func (p *Plan) admitted(ctx context.Context, o *StartOptions) (*resources, error) {
	r := &resources{files: make(map[fork.FD]*os.File)}
	streams := map[fork.FD]*os.File{"stdin": o.Stdin, "stdout": o.Stdout, "stderr": o.Stderr}
	for name, f := range streams {
		if r.files[name] = f; f != nil {
			continue
		}
		if r.null == nil {
			var err error
			if r.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
				return r, err
			}
		}
		r.files[name] = r.null
	}
	if err := p.unchanged(); err != nil {
		return r, err
	}
	if p.file == nil && (p.compares || p.admit != nil) {
		var err error
		if r.dir, err = os.Open(p.image); err != nil {
			return r, err
		}
		info, err := r.dir.Stat()
		if err := p.identity.check("open", p.image, info, err); err != nil {
			return r, err
		}
	}
	return r, p.ask(ctx, r.dir)
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
		proc := &Process{pid: child.PID, executor: ExecutorMemfd, done: make(chan struct{})}
		if child.Executor == fork.ExecutorFork {
			proc.executor = ExecutorFork
		}
		started <- result{proc, child, nil}
		proc.reap()
		cleanup()
		close(proc.done)
	}()
	r := <-started
	return r.proc, r.child, r.err
}
