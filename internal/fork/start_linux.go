package fork

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Executor is a way to run a table in a child.
type Executor uint8

const (
	// ExecutorAuto is ExecutorMemfd where that works, else ExecutorFork.
	ExecutorAuto Executor = iota
	// ExecutorMemfd generates a program that runs the table, and executes that from memory. It takes the same time
	// however large the caller is, but cannot be process 1 of a PID namespace, and security modules may forbid it.
	ExecutorMemfd
	// ExecutorFork forks; it works everywhere.
	ExecutorFork
)

// Options are the options of Start.
type Options struct {
	// Executor is how the table is run.
	Executor Executor
	// Files are descriptors of the caller that the calls name.
	Files map[FD]*os.File
	// Clone has namespaces that the child is made in, as opposed to those that it unshares: CLONE_NEWPID, and
	// CLONE_NEWUSER where the user may not make that alone.
	Clone uintptr
}

// Child is a forked process that runs a table, or the program that the table has executed.
type Child struct {
	// PID is the process ID. The caller has to wait for it.
	PID int
	// Executor is what runs the table: never ExecutorAuto.
	Executor Executor
	calls    []Call
	errs     *os.File
}

// An Error is a call of the table that failed.
type Error struct {
	Index int
	Call  Call
	Err   error // *fs.PathError where the call concerns a file, else *os.SyscallError
}

func (e *Error) Error() string { return fmt.Sprintf("call %d: %v", e.Index, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// Start forks and lets the child run the calls. Concurrent use is fine; see the package comment about threads.
func Start(calls []Call, o *Options) (*Child, error) {
	if strconv.IntSize != 64 {
		return nil, fmt.Errorf("system calls are laid out for 64-bit machines, not %s: %w", runtime.GOARCH, errors.ErrUnsupported)
	}
	if o == nil {
		o = &Options{}
	}
	numbers := make(map[FD]uintptr)
	for name, f := range o.Files {
		numbers[name] = f.Fd()
	}
	defer runtime.KeepAlive(o.Files)
	reserved, err := reserve(calls, numbers)
	defer closeAll(reserved)
	if err != nil {
		return nil, fmt.Errorf("reserve descriptors: %w", err)
	}
	child := &Child{calls: calls}
	err = errNoProgram
	if o.Executor != ExecutorFork && o.Clone == 0 {
		child.Executor = ExecutorMemfd
		given := make([]uintptr, 0, len(o.Files)+1)
		for _, f := range o.Files {
			given = append(given, f.Fd())
		}
		child.PID, child.errs, err = startProgram(calls, numbers, given)
	}
	if errors.Is(err, errNoProgram) {
		if o.Executor == ExecutorMemfd {
			return nil, fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
		}
		child.Executor = ExecutorFork
		var t *table
		if t, err = link(calls, numbers, o.Clone); err == nil {
			child.PID, child.errs, err = start(t, numbers)
		}
	}
	if err != nil {
		return nil, err
	}
	return child, nil
}

// start forks under the lock that keeps descriptors without close-on-exec out of other children, and keeps the writing
// end of the pipe out of all others: Ready waits until the last copy is closed.
//
// It holds the lock until the child has closed what is not for it, as package syscall holds it until a program is executed.
// That is what Barrier relies on.
func start(t *table, numbers map[FD]uintptr) (pid int, errs *os.File, err error) {
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	var p, closed [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return 0, nil, os.NewSyscallError("pipe2", err)
	}
	if err := unix.Pipe2(closed[:], unix.O_CLOEXEC); err != nil {
		closeAll(p[:])
		return 0, nil, os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(closed[0])
	t.errfd = uintptr(p[1])
	t.keepOnly(numbers, uintptr(max(p[1], closed[1])))
	child, errno := run(t)
	runtime.KeepAlive(t)
	closeAll([]int{p[1], closed[1]})
	if errno != 0 {
		_ = unix.Close(p[0])
		return 0, nil, os.NewSyscallError("clone", errno)
	}
	for {
		if _, err := unix.Read(closed[0], make([]byte, 1)); err != unix.EINTR {
			break // the end: nobody ever writes
		}
	}
	// Non-blocking, it is served by the poller and need not hold a thread.
	_ = unix.SetNonblock(p[0], true)
	return int(child), os.NewFile(uintptr(p[0]), "fork"), nil
}

// Barrier waits until no child of this process has copies of descriptors that were closed before it was called.
func Barrier() {
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
}

// keepOnly decides which descriptors the child closes at once. What is opened before it forks, after the highest has been
// looked up, mostly gets a lower number.
func (t *table) keepOnly(numbers map[FD]uintptr, highest uintptr) {
	const spare = 64
	for _, n := range numbers {
		highest = max(highest, n)
	}
	if names, err := os.ReadDir("/proc/self/fd"); err == nil {
		for _, d := range names {
			if n, err := strconv.Atoi(d.Name()); err == nil && n < 1<<20 {
				highest = max(highest, uintptr(n))
			}
		}
	}
	t.keep = make([]bool, highest+spare)
	t.keep[t.errfd] = true
	for _, n := range numbers {
		t.keep[n] = true
	}
}

// reserve occupies a number for each descriptor that the calls open. The child puts the descriptor there.
func reserve(calls []Call, numbers map[FD]uintptr) (reserved []int, err error) {
	for _, c := range calls {
		if c.out == "" {
			continue
		}
		if _, ok := numbers[c.out]; ok {
			continue
		}
		var fd int
		if len(reserved) == 0 {
			fd, err = openReserved()
		} else {
			fd, err = unix.FcntlInt(uintptr(reserved[0]), unix.F_DUPFD_CLOEXEC, 3)
		}
		if err != nil {
			return reserved, err
		}
		reserved = append(reserved, fd)
		numbers[c.out] = uintptr(fd)
	}
	return reserved, nil
}

// openReserved opens something at 3 or above: a daemon may have closed its standard descriptors.
func openReserved() (int, error) {
	low, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil || low > 2 {
		return low, err
	}
	fd, err := unix.FcntlInt(uintptr(low), unix.F_DUPFD_CLOEXEC, 3)
	_ = unix.Close(low)
	return fd, err
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// Close does without Ready.
func (c *Child) Close() { c.errs.Close() }

// Ready waits until the child has executed its program, and returns nil, or until a call has failed: *Error. If ctx ends
// first, it returns its error, and the child goes on: kill it. Ready may be called once.
func (c *Child) Ready(ctx context.Context) error {
	defer c.errs.Close()
	stop := context.AfterFunc(ctx, func() { c.errs.Close() })
	defer stop()
	var record [8]byte
	switch n, err := io.ReadFull(c.errs, record[:]); {
	case n == 0 && errors.Is(err, io.EOF):
		return ctx.Err()
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("read from child: %w", err)
	}
	index := int(binary.NativeEndian.Uint32(record[:]))
	errno := syscall.Errno(binary.NativeEndian.Uint32(record[4:]))
	if index >= len(c.calls) {
		return errors.New("the table executes no program")
	}
	call := c.calls[index]
	e := &Error{Index: index, Call: call}
	if call.path != "" {
		e.Err = &fs.PathError{Op: call.name, Path: call.path, Err: errno}
	} else {
		e.Err = os.NewSyscallError(call.name+describe(call), errno)
	}
	return e
}

// describe adds the first argument where the name of the call says little.
func describe(c Call) string {
	if len(c.args) == 0 || c.args[0].text == "" {
		return ""
	}
	if _, err := strconv.Atoi(c.args[0].text); err == nil {
		return ""
	}
	return "(" + c.args[0].text + ")"
}
