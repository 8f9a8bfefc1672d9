package fork

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	sigsetSize  = 8
	signals     = 64
	ignored     = 1 // SIG_IGN
	exitSetUp   = 125
	siCodeIndex = 1 // si_code is the low half of the second word of siginfo_t
)

// run forks. In the parent it returns the child's process ID. The child makes the calls of the table and never returns.
//
// Everything below clone runs in a copy of this process with one thread, in which any lock of the runtime may be held for
// ever. So nothing here calls the runtime: no allocation, no pointer written, no stack grown, no race detector. The stack
// does not grow because every function on the way is nosplit; the linker checks that they fit.
//
//go:norace
//go:nosplit
//go:noinline
//go:nocheckptr
func run(t *table) (pid uintptr, errno syscall.Errno) {
	_, _, errno = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK,
		uintptr(unsafe.Pointer(&t.block)), uintptr(unsafe.Pointer(&t.mask)), sigsetSize, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, t.clone|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK,
			uintptr(unsafe.Pointer(&t.mask)), 0, sigsetSize, 0, 0)
		return pid, errno
	}
	resetHandlers(t)
	closeOthers(t)
	for {
		interpret(t)
	}
}

// resetHandlers gives every signal that has a handler its default action. Ignored ones stay ignored: nohup relies on it.
//
//go:norace
//go:nosplit
//go:nocheckptr
func resetHandlers(t *table) {
	for sig := uintptr(1); sig <= signals; sig++ {
		_, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&t.old)), sigsetSize, 0, 0)
		if errno == 0 && t.old[0] > ignored {
			_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&t.reset)), 0, sigsetSize, 0, 0)
		}
	}
}

// closeOthers closes the copies of what the process has open for itself only. Executing the program would, but until then
// others wait for the end of a pipe that this child has a copy of, or cannot remount what it holds open for writing.
//
//go:norace
//go:nosplit
//go:nocheckptr
func closeOthers(t *table) {
	for fd := 3; fd < len(t.keep); fd++ {
		if t.keep[fd] {
			continue
		}
		flags, _, errno := syscall.RawSyscall6(unix.SYS_FCNTL, uintptr(fd), unix.F_GETFD, 0, 0, 0, 0)
		if errno == 0 && flags&unix.FD_CLOEXEC != 0 {
			_, _, _ = syscall.RawSyscall6(unix.SYS_CLOSE, uintptr(fd), 0, 0, 0, 0, 0)
		}
	}
}

// interpret makes the calls. It does not return.
//
//go:norace
//go:nosplit
//go:nocheckptr
func interpret(t *table) {
	var denied syscall.Errno // EACCES of an Exec, which outweighs the ENOENT of later ones
	for i := 0; i < len(t.calls); i++ {
		c := &t.calls[i]
		if c.kind == kindInit {
			if errno := forkInit(t); errno != 0 {
				fail(t, i, errno)
			}
			continue
		}
		r, _, errno := syscall.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		for errno == syscall.EINTR {
			r, _, errno = syscall.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		}
		switch c.kind {
		case kindLax:
			continue
		case kindExec:
			if errno == syscall.EACCES {
				denied = errno
			}
			here := errno != syscall.ENOENT && errno != syscall.ENOTDIR && errno != syscall.EACCES
			if !here && i+1 < len(t.calls) && t.calls[i+1].kind == kindExec {
				continue
			}
			if !here && denied != 0 {
				errno = denied
			}
			fail(t, i, errno)
		}
		if errno != 0 && c.kind == kindTry {
			continue
		}
		if errno != 0 {
			fail(t, i, errno)
		}
		switch c.kind {
		case kindWant:
			if r != c.n {
				fail(t, i, syscall.EPIPE)
			}
		case kindSave:
			t.calls[c.n].args[0] = r
		case kindFD, kindTry:
			if r != c.n {
				if _, _, errno = syscall.RawSyscall6(unix.SYS_DUP3, r, c.n, unix.O_CLOEXEC, 0, 0, 0); errno != 0 {
					fail(t, i, errno)
				}
				_, _, _ = syscall.RawSyscall6(unix.SYS_CLOSE, r, 0, 0, 0, 0, 0)
			}
		}
	}
	fail(t, len(t.calls), syscall.ENOEXEC)
}

// fail tells the parent which call failed, and why, and ends the process.
//
//go:norace
//go:nosplit
//go:nocheckptr
func fail(t *table, index int, errno syscall.Errno) {
	t.record[0], t.record[1] = uint32(index), uint32(errno)
	_, _, _ = syscall.RawSyscall6(unix.SYS_WRITE, t.errfd, uintptr(unsafe.Pointer(&t.record)), 8, 0, 0, 0)
	for {
		_, _, _ = syscall.RawSyscall6(unix.SYS_EXIT_GROUP, exitSetUp, 0, 0, 0, 0, 0)
	}
}

// forkInit returns in the child. The parent, process 1 of its PID namespace, reaps until that child ends and exits as it
// did. Signals stay blocked in it and are taken one by one; those that a process sent are passed on, those of a terminal
// have reached the child already.
//
//go:norace
//go:nosplit
//go:nocheckptr
func forkInit(t *table) syscall.Errno {
	child, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || child == 0 {
		return errno
	}
	// It is a copy of the caller, of whose memory nothing is for those who have privileges in its user namespace.
	_, _, _ = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0, 0)
	// Of what is open it needs nothing, and must not keep pipes from ending, that of errors first of all.
	_, _, _ = syscall.RawSyscall6(unix.SYS_CLOSE, t.errfd, 0, 0, 0, 0, 0)
	_, _, _ = syscall.RawSyscall6(unix.SYS_CLOSE_RANGE, 0, uintptr(^uint32(0)), 0, 0, 0, 0)
	for {
		sig, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&t.block)), uintptr(unsafe.Pointer(&t.info)), 0, sigsetSize, 0, 0)
		if errno != 0 {
			continue
		}
		if sig != uintptr(syscall.SIGCHLD) {
			if int32(uint32(t.info[siCodeIndex])) <= 0 {
				_, _, _ = syscall.RawSyscall6(unix.SYS_KILL, child, sig, 0, 0, 0, 0)
			}
			continue
		}
		for {
			pid, _, errno := syscall.RawSyscall6(unix.SYS_WAIT4, ^uintptr(0), uintptr(unsafe.Pointer(&t.status)), unix.WNOHANG, 0, 0, 0)
			if errno != 0 || pid == 0 {
				break
			}
			if pid != child {
				continue
			}
			code := uintptr(t.status>>8) & 0xff
			if low := uintptr(t.status) & 0x7f; low != 0 {
				code = 128 + low
			}
			for {
				_, _, _ = syscall.RawSyscall6(unix.SYS_EXIT_GROUP, code, 0, 0, 0, 0, 0)
			}
		}
	}
}
