package mount

import (
	"errors"
	"io/fs"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"hpcimg/mount/internal/wire"
)

// reader is a thread that reads requests and answers them. One at a time has the turn to read. It keeps it while what it answers
// is quick, and passes it on before anything that is not: of several threads that wait in the kernel each request would wake
// another one, and each of them keeps a processor from the rest of the program until the Go runtime takes it away. The watch
// passes it on for one that turns out not to be quick: whoever reads tables of an image may wait for its disk.
type reader struct {
	s       *Server
	fd      int // its own clone of the device, or the first
	tid     atomic.Int32
	turn    atomic.Bool   // to read
	begun   atomic.Uint64 // odd while it answers a request
	long    bool          // what is being answered is known to take long
	buf     []byte
	r       reply
	iov     []unix.Iovec
	yielded time.Time
}

const (
	// yieldEvery is how often a reader lets the Go runtime schedule. It takes a goroutine that never does for one that computes, and
	// takes the processor from it in each of its system calls.
	yieldEvery = 4 * time.Millisecond
	// yieldIdle is how long yielding takes at most when nobody else wants the processor.
	yieldIdle = 10 * time.Microsecond
	// slowAnswer is what an answer takes that should not have kept others waiting, and carefully for how many others the turn is passed on then.
	slowAnswer = time.Millisecond
	carefully  = 64
)

func newReader(s *Server, fd int) *reader {
	r := &reader{s: s, fd: fd, buf: make([]byte, wire.RequestSize), iov: make([]unix.Iovec, 0, 16)}
	r.r.body.slow = func() { r.long = true; r.pass() }
	return r
}

// run works until the mount is gone, which is no error.
func (r *reader) run() error {
	for {
		r.s.idle.Add(1)
		<-r.s.turn
		r.s.idle.Add(-1)
		r.turn.Store(true)
		for r.turn.Load() {
			if more, err := r.one(); !more {
				if r.turn.CompareAndSwap(true, false) {
					r.s.turn <- struct{}{} // the others find the same
				} else {
					r.s.working.Add(-1)
				}
				return err
			}
		}
		r.s.working.Add(-1)
	}
}

// pass lets another thread read, before something that takes as long as decoding a block does.
func (r *reader) pass() {
	if !r.turn.CompareAndSwap(true, false) {
		return
	}
	r.s.working.Add(1)
	if r.s.idle.Load() == 0 {
		r.s.more()
	}
	r.s.turn <- struct{}{}
}

// one reads and answers a request; false says that there will be no more.
func (r *reader) one() (more bool, err error) {
	n, err := r.read()
	switch {
	case err == nil && n > 0:
		r.s.mounted.Store(true)
		r.answer(r.buf[:n])
	case err == nil, errors.Is(err, unix.ENODEV), errors.Is(err, unix.ECONNABORTED):
		return false, nil
	case errors.Is(err, unix.EPERM) && !r.s.mounted.Load(): // not mounted yet
		select {
		case <-r.s.done:
		case <-time.After(time.Millisecond):
		}
	case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOENT): // of a request that was given up
	default:
		return false, &fs.PathError{Op: "read", Path: "/dev/fuse", Err: err}
	}
	return true, nil
}

// read waits for a request. Close finds the thread by the number that is noted here.
func (r *reader) read() (int, error) {
	if now := time.Now(); now.Sub(r.yielded) > yieldEvery {
		r.yielded = now
		runtime.Gosched()
	}
	// A thread that waits in the kernel keeps its processor for a while, which others may want.
	for r.s.busy() >= r.s.procs && !r.pending() {
		begin := time.Now()
		runtime.Gosched()
		if time.Since(begin) < yieldIdle {
			break
		}
	}
	r.tid.Store(int32(unix.Gettid()))
	return unix.Read(r.fd, r.buf)
}

// busy is how many goroutines have something to do that takes long.
func (s *Server) busy() int32 {
	n := s.working.Load()
	if s.a.spans != nil {
		n += s.a.spans.decoding()
	}
	return n
}

// pending reports whether there is a request.
func (r *reader) pending() bool {
	p := unix.PollFd{Fd: int32(r.fd), Events: unix.POLLIN}
	var none unix.Timespec
	n, _, _ := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&none)), 0, 0, 0)
	return n != 0
}

func (r *reader) answer(msg []byte) {
	if r.s.a.spans == nil {
		r.pass()
	} else if r.s.careful.Load() > 0 {
		r.s.careful.Add(-1)
		r.pass()
	}
	r.long = false
	begin := time.Now()
	r.begun.Add(1)
	r.s.watched()
	send := r.s.a.answer(msg, &r.r)
	r.begun.Add(1)
	if !r.long && time.Since(begin) > slowAnswer {
		r.s.careful.Store(carefully)
	}
	if send {
		r.reply(msg)
	}
}

// reply sends the reply to a request. One that the kernel does not take is no reason to end: others wait for theirs.
func (r *reader) reply(msg []byte) {
	err := r.write()
	r.r.body.release()
	if err != nil {
		r.s.a.refused(msg, &r.r, err)
		_ = r.write() // not wanted, if the kernel has made an EIO of the first one already
	}
}

// write sends the reply, head and pieces in one call.
func (r *reader) write() error {
	r.iov = append(r.iov[:0], iovec(r.r.head))
	for _, p := range r.r.body.pieces {
		r.iov = append(r.iov, iovec(p))
	}
	for {
		_, _, errno := unix.Syscall(unix.SYS_WRITEV, uintptr(r.fd), uintptr(unsafe.Pointer(&r.iov[0])), uintptr(len(r.iov)))
		switch errno {
		case syscall.EINTR:
			continue
		case 0, syscall.ENOENT, syscall.ENODEV, syscall.EBADF, syscall.EPERM, syscall.ECONNABORTED:
			// Nobody waits for the reply any more. If the connection is gone, the next read says so.
			return nil
		}
		return &fs.PathError{Op: "write", Path: "/dev/fuse", Err: errno}
	}
}

func iovec(p []byte) unix.Iovec {
	v := unix.Iovec{Base: unsafe.SliceData(p)}
	v.SetLen(len(p))
	return v
}
