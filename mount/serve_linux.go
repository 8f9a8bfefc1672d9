package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Server answers the requests of one FUSE mount. Its methods may be called from any goroutine.
type Server struct {
	a       *answerer
	threads int
	first   int // the descriptor that was handed over

	turn    chan struct{} // has an element while no thread reads
	idle    atomic.Int32  // threads that wait for their turn
	working atomic.Int32  // threads with a request that takes long
	careful atomic.Int32  // how many requests are expected to take long
	procs   int32
	watch   atomic.Bool // there is somebody who watches
	mounted atomic.Bool
	done    chan struct{}

	own *ownMount // nil if somebody else has mounted it

	mu      sync.Mutex
	readers []*reader
	running int
	closed  bool
	err     error
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
	s := &Server{
		a: newAnswerer(t, v, os.Getpagesize()), threads: v.Threads, first: fd, own: own,
		turn: make(chan struct{}, 1), procs: int32(runtime.GOMAXPROCS(0)), done: make(chan struct{}),
	}
	s.turn <- struct{}{}
	s.start(fd)
	return s, nil
}

// start adds a reader. Whoever calls it holds mu, or is the first.
func (s *Server) start(fd int) {
	r := newReader(s, fd)
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

// more adds a reader when none waits for its turn. Each has a clone of the device of its own, whose requests
// in progress are no concern of the others; where the kernel makes none for this process, all share one.
func (s *Server) more() {
	// Under the lock, the number of the device is nobody else's: it is closed under the same.
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.readers) >= s.threads {
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
		if wait > 8*time.Millisecond {
			interruptAll()
		}
		select {
		case <-s.done:
			return nil
		case <-time.After(wait):
		}
	}
}

// interruptAll interrupts all threads of the process: one that waits may have changed between noting its number and reading.
func interruptAll() {
	threads, _ := os.ReadDir("/proc/self/task")
	for _, t := range threads {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.Tgkill(unix.Getpid(), tid, unix.SIGURG)
		}
	}
}
