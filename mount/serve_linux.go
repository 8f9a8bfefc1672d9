package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"hpcimg/mount/internal/wire"
)

// Server answers the requests of one FUSE mount. Its methods may be called from any goroutine.
type Server struct {
	a       *answerer
	threads int
	first   int // the descriptor that was handed over

	waiting atomic.Int32 // threads without work
	mounted atomic.Bool
	done    chan struct{}

	own *ownMount // nil if somebody else has mounted it

	mu      sync.Mutex
	readers []*reader
	running int
	closed  bool
	err     error
}

// reader is a thread that reads requests and answers them.
type reader struct {
	s   *Server
	fd  int // its own clone of the device, or the first
	tid atomic.Int32
	buf []byte
	r   reply
	iov []unix.Iovec
}

// Serve answers what a kernel asks through dev, an open /dev/fuse, from t. Somebody else mounts it, before or after: with the
// data that [FuseData] returns, and in the user namespace in which dev was opened. Serve takes dev over and closes it; the
// caller must see to it that no other process keeps the descriptor, as the mount lives on with it. It returns at once, and
// the server works until the file system is unmounted or Close is called.
//
// The process that serves must not use the mount itself. A thread that waits for an answer of its own process cannot be killed
// once the request has been read, so SIGKILL would leave both the process and the mount hanging, for good. It would also
// stop all of a process with one processor to open a file by package os, whose poller the kernel has ask the server.
func Serve(dev *os.File, t Tree, o *ServeOptions) (*Server, error) {
	return serveOwn(dev, t, o, nil)
}

func serveOwn(dev *os.File, t Tree, o *ServeOptions, own *ownMount) (*Server, error) {
	fd, err := unix.FcntlInt(dev.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "fcntl F_DUPFD_CLOEXEC", Path: dev.Name(), Err: err}
	}
	if err := errors.Join(unix.SetNonblock(fd, false), dev.Close()); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	v := o.withDefaults(runtime.GOMAXPROCS(0))
	s := &Server{a: newAnswerer(t, v, os.Getpagesize()), threads: v.Threads, first: fd, own: own, done: make(chan struct{})}
	s.start(fd)
	return s, nil
}

// start adds a reader, unless there are enough.
func (s *Server) start(fd int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.readers) >= s.threads {
		if fd != s.first {
			_ = unix.Close(fd)
		}
		return
	}
	r := &reader{s: s, fd: fd, buf: make([]byte, wire.RequestSize), iov: make([]unix.Iovec, 0, 16)}
	s.readers = append(s.readers, r)
	s.running++
	go func() {
		err := r.run()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.err = errors.Join(s.err, err)
		if s.running--; s.running == 0 {
			s.finish()
		}
	}()
}

// finish closes all descriptors, which ends the connection if the mount is still there.
func (s *Server) finish() {
	for _, r := range s.readers {
		if r.fd != s.first {
			_ = unix.Close(r.fd)
		}
	}
	_ = unix.Close(s.first)
	if s.own != nil {
		s.err = errors.Join(s.err, s.own.ended())
	}
	s.closed = true
	close(s.done)
}

// more adds a reader when the last one that waited has got work. Each has a clone of the device of its own, whose requests
// in progress are no concern of the others; where the kernel makes none for this process, all share one.
func (s *Server) more() {
	s.mu.Lock()
	enough := s.closed || len(s.readers) >= s.threads
	s.mu.Unlock()
	if enough {
		return
	}
	fd, err := cloneDevice(s.first)
	if err != nil {
		fd = s.first
	}
	s.start(fd)
}

func cloneDevice(fd int) (int, error) {
	clone, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	const fuseDevIocClone = 0x8004e500 // _IOR(229, 0, uint32_t)
	session := uint32(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(clone), fuseDevIocClone, uintptr(unsafe.Pointer(&session))); errno != 0 {
		_ = unix.Close(clone)
		return -1, errno
	}
	return clone, nil
}

// run works until the mount is gone, which is no error.
func (r *reader) run() error {
	for {
		n, err := r.read()
		switch {
		case err == nil && n > 0:
			r.s.mounted.Store(true)
			if r.s.waiting.Load() == 0 {
				r.s.more()
			}
			if !r.s.a.answer(r.buf[:n], &r.r) {
				continue
			}
			r.reply(r.buf[:n])
		case err == nil, errors.Is(err, unix.ENODEV), errors.Is(err, unix.ECONNABORTED):
			return nil
		case errors.Is(err, unix.EPERM) && !r.s.mounted.Load(): // not mounted yet
			select {
			case <-r.s.done:
			case <-time.After(time.Millisecond):
			}
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOENT): // of a request that was given up
		default:
			return &fs.PathError{Op: "read", Path: "/dev/fuse", Err: err}
		}
	}
}

// read waits for a request. Close finds the thread by the number that is noted here.
func (r *reader) read() (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r.tid.Store(int32(unix.Gettid()))
	r.s.waiting.Add(1)
	defer r.s.waiting.Add(-1)
	return unix.Read(r.fd, r.buf)
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

// Wait returns when the file system is no longer mounted, with nil, or after Close. An error says why the server has given
// up otherwise.
func (s *Server) Wait() error {
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends the server. A mount that [Fuse] has made is removed; one of somebody else remains, and whoever uses it gets
// ENOTCONN. Close returns when all threads are done; a second call does nothing.
func (s *Server) Close() error {
	if s.own == nil {
		return s.end()
	}
	select {
	case <-s.done: // there is no telling what is mounted there now
		return nil
	default:
		return errors.Join(s.own.unmount(), s.end())
	}
}

func (s *Server) end() error {
	var end [2]int
	if err := unix.Pipe2(end[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(end[0])
	_ = unix.Close(end[1])
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		<-s.done
		return nil
	}
	s.closed = true
	// In place of the device each thread finds the end of a pipe that nobody writes to. A thread that waits within the kernel
	// does so until a signal makes it look again: the one by which the Go runtime interrupts threads, to which nothing else happens.
	for _, r := range s.readers {
		if err := unix.Dup3(end[0], r.fd, unix.O_CLOEXEC); err != nil {
			s.mu.Unlock()
			return os.NewSyscallError("dup3", err)
		}
	}
	readers := s.readers
	s.mu.Unlock()
	for wait := time.Millisecond; ; wait = min(2*wait, time.Second) {
		for _, r := range readers {
			_ = unix.Tgkill(unix.Getpid(), int(r.tid.Load()), unix.SIGURG)
		}
		select {
		case <-s.done:
			return nil
		case <-time.After(wait):
		}
	}
}
