package runtime

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"

	"hpcimg/internal/squashfuse"
)

// StartOptions are the options of Plan.Start.
type StartOptions struct {
	// Stdin, Stdout and Stderr are the command's; nil means the null device. Other descriptors of the caller are passed
	// on unless they are close-on-exec, under the same numbers: launchers of MPI jobs rely on that.
	Stdin, Stdout, Stderr *os.File
	// Executor is how the plan is carried out. Leave it to ExecutorAuto, unless to test or to find a fault.
	Executor Executor
	// Session, if set, has the command join the namespaces and mounts of whoever came first there, or make them for those
	// who come later. The plan has to be Shared. Keep the session open until Session.Wait has returned.
	Session *Session
}

// Executor is a way to carry out a plan. All make the same system calls with the same errors.
type Executor string

const (
	// ExecutorAuto is ExecutorMemfd where that works, else ExecutorFork.
	ExecutorAuto Executor = ""
	// ExecutorMemfd generates a program that makes the calls, and executes it from memory: the time that it takes does
	// not grow with the memory of the caller. It cannot make PID namespaces, and hosts can forbid it
	// (vm.memfd_noexec=2, security modules).
	ExecutorMemfd Executor = "memfd"
	// ExecutorFork makes the calls in a copy of the caller: about 25 ms for each gigabyte that the caller uses.
	ExecutorFork Executor = "fork"
)

// Process is a command that runs in an image.
type Process struct {
	pid int
	// mu keeps the process from being reaped while it is sent a signal.
	mu     sync.Mutex
	reaped bool
	// executor is what carried out the plan.
	executor Executor
	server   atomic.Pointer[squashfuse.Server] // what serves the image, if that is not this process
	done     chan struct{}                     // closed when the process has been waited for
	state    *os.ProcessState
	err      error
}

// Start compiles a specification and starts its command, once; with a session it tries Session.Join first. The errors are those
// of Compile and Plan.Start.
func Start(ctx context.Context, spec *Spec, o *StartOptions) (*Process, error) {
	if o != nil && o.Session != nil {
		if proc, err := o.Session.Join(ctx, spec, o); proc != nil || err != nil {
			return proc, err
		}
	}
	plan, err := Compile(ctx, spec)
	if err != nil {
		return nil, err
	}
	defer plan.Close() // what runs has what it needs
	return plan.Start(ctx, o)
}

// Start starts the command of the plan. It returns when the command has been executed, or with the reason why it has not:
// a *SetupError names the system call, an *fs.PathError an image that the kernel has refused, with its reason. Cancelling ctx ends a start, not a command that runs; see Cmd for that. Nil options
// are the defaults.
//
// The process ends with this one, even if this one is killed. What it has mounted goes with it.
func (p *Plan) Start(ctx context.Context, o *StartOptions) (*Process, error) {
	if o == nil {
		o = &StartOptions{}
	}
	return p.start(ctx, o)
}

// PID is the process ID on the host. With a PID namespace it is that of its process 1.
func (p *Process) PID() int { return p.pid }

// Executor is what has carried out the plan; never ExecutorAuto.
func (p *Process) Executor() Executor { return p.executor }

// Wait waits for the end of the command, and may be called any number of times. The error is none of the command's: its
// exit code is in the state.
func (p *Process) Wait() (*os.ProcessState, error) {
	<-p.done
	return p.state, p.err
}

// Done is closed when the command has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal; os.ErrProcessDone says that it came too late.
func (p *Process) Signal(sig os.Signal) error {
	return p.signal(sig)
}

// Kill ends the command.
func (p *Process) Kill() error { return p.Signal(os.Kill) }

// Forward passes signals on to the command until it ends or the channel is closed. The channel is one of signal.Notify:
// a library does not take over the signals of a program. A terminal's interrupts reach the command by themselves; do not
// ask for those, ignore them.
func (p *Process) Forward(signals <-chan os.Signal) {
	for {
		select {
		case <-p.done:
			return
		case sig, ok := <-signals:
			if !ok {
				return
			}
			if err := p.Signal(sig); errors.Is(err, os.ErrProcessDone) {
				return
			}
		}
	}
}
