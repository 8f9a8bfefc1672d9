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

// Options are the options of Start.
type Options struct {
	// Files are descriptors of the caller that the calls name.
	Files map[FD]*os.File
	// Clone has namespaces that the child is made in, as opposed to those that it unshares: CLONE_NEWPID, and
	// CLONE_NEWUSER where the user may not make that alone.
	Clone uintptr
}

// Child is a forked process that runs a table, or the program that the table has executed.
type Child struct {
	// PID is the process ID. The caller has to wait for it.
	PID   int
	calls []Call
	errs  *os.File
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
	t, err := link(calls, numbers, o.Clone)
	if err != nil {
		return nil, err
	}
	pid, errs, err := start(t, numbers)
	if err != nil {
		return nil, err
	}
	return &Child{PID: pid, calls: calls, errs: errs}, nil
}

// start forks under the lock that keeps descriptors without close-on-exec out of other children, and keeps the writing
// end of the pipe out of all others: Ready waits until the last copy is closed.
func start(t *table, numbers map[FD]uintptr) (pid int, errs *os.File, err error) {
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return 0, nil, os.NewSyscallError("pipe2", err)
	}
	t.errfd = uintptr(p[1])
	t.keepOnly(numbers)
	child, errno := run(t)
	runtime.KeepAlive(t)
	_ = unix.Close(p[1])
	if errno != 0 {
		_ = unix.Close(p[0])
		return 0, nil, os.NewSyscallError("clone", errno)
	}
	// Non-blocking, it is served by the poller and need not hold a thread.
	_ = unix.SetNonblock(p[0], true)
	return int(child), os.NewFile(uintptr(p[0]), "fork"), nil
}

// keepOnly decides which descriptors the child closes at once. What is opened before it forks, after the highest has been
// looked up, mostly gets a lower number.
func (t *table) keepOnly(numbers map[FD]uintptr) {
	const spare = 64
	highest := t.errfd
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
