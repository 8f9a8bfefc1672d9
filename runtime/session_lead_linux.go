package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// shared is what those who join a session get.
type shared struct {
	user *os.File // namespaces; nil where there is none but that of the host
	mnt  *os.File
	fuse *os.File // a clone of the device that the image is served through; nil if it is not
}

func (h *shared) close() {
	for _, f := range []*os.File{h.user, h.mnt, h.fuse} {
		if f != nil {
			f.Close()
		}
	}
}

// lead is the leadership of a session.
type lead struct {
	s *session
	names
	held   *shared
	lock   *os.File
	socket *os.File
}

// lead makes this process the leader, and takes over held and lock.
func (s *session) lead(n names, held *shared, lock *os.File) error {
	l := &lead{s: s, names: n, held: held, lock: lock}
	err := l.listen()
	if err != nil {
		l.close()
		return s.fail(l.key+socketSuffix, err)
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		l.close()
		return s.fail(l.key+socketSuffix, os.ErrClosed)
	}
	s.leads[l.key] = l
	s.mu.Unlock()
	go l.accept()
	return nil
}

// unlead gives up the leadership of a session, after a start that has failed.
func (s *session) unlead(key string) {
	s.mu.Lock()
	l := s.leads[key]
	delete(s.leads, key)
	s.mu.Unlock()
	if l != nil {
		l.close()
	}
}

func (l *lead) listen() error {
	name := l.key + socketSuffix
	if err := unix.Unlinkat(int(l.s.dir.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return os.NewSyscallError("unlinkat", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	l.socket = os.NewFile(uintptr(fd), name)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: l.s.path(name)}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
		return os.NewSyscallError("listen", err)
	}
	if l.alias != "" { // without it, guests need a plan
		dir, link := int(l.s.dir.Fd()), l.alias+aliasSuffix
		_ = unix.Unlinkat(dir, link, 0)
		_ = unix.Symlinkat(name, dir, link)
	}
	return nil
}

func (l *lead) close() {
	if l.socket != nil {
		l.socket.Close()
	}
	l.s.remove(l.key)
	l.lock.Close()
	l.held.close()
}

// acceptPause is how long a leader waits when it cannot let a guest in.
const acceptPause = 10 * time.Millisecond

func (l *lead) accept() {
	conn, err := l.socket.SyscallConn()
	if err != nil {
		return
	}
	for {
		var guest int
		var failed error
		err := conn.Read(func(fd uintptr) bool {
			guest, _, failed = unix.Accept4(int(fd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return !errors.Is(failed, unix.EAGAIN)
		})
		if err != nil {
			return // closed
		}
		if failed != nil {
			// Too many open files, say, and the guest still waits: not again at once.
			time.Sleep(acceptPause)
			continue
		}
		l.welcome(os.NewFile(uintptr(guest), "guest"))
	}
}

// welcome sends a guest what the session shares, and counts it until its process closes the connection, or ends.
func (l *lead) welcome(guest *os.File) {
	if checkPeer(guest) != nil || l.send(guest) != nil {
		guest.Close()
		return
	}
	l.s.guest(1)
	go func() {
		defer l.s.guest(-1)
		defer guest.Close()
		_, _ = io.Copy(io.Discard, guest)
	}()
}

// send sends one byte, which says which descriptors come with it, and the names that the session has.
func (l *lead) send(guest *os.File) error {
	var what byte
	fds := make([]int, 0, 3)
	add := func(bit byte, f *os.File) {
		if f != nil {
			what |= bit
			fds = append(fds, int(f.Fd()))
		}
	}
	add(1, l.held.user)
	add(2, l.held.mnt)
	if l.held.fuse != nil {
		if clone, err := cloneFUSE(l.held.fuse); err == nil {
			defer clone.Close()
			add(4, clone)
		}
	}
	defer runtime.KeepAlive(l.held)
	conn, err := guest.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = conn.Write(func(fd uintptr) bool {
		sendErr = unix.Sendmsg(int(fd), append([]byte{what}, l.key+l.alias...), unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
		return !errors.Is(sendErr, unix.EAGAIN)
	})
	return errors.Join(err, sendErr)
}

// checkPeer says whether the other side is a process of this user.
func checkPeer(conn *os.File) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, credErr); err != nil {
		return err
	}
	if int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: the other side is user %d: %w", errStranger, cred.Uid, os.ErrPermission)
	}
	return checkOutside(int(cred.Pid))
}

// errStranger says that who is at the other end of a socket has no business there.
var errStranger = errors.New("not a process that shares the session")

// checkOutside refuses a process of another user namespace: one that runs in an image, which has the same user and may see the
// directory of the session, but must not hand out namespaces in the name of the leader.
func checkOutside(pid int) error {
	if pid == 0 {
		return fmt.Errorf("%w: its PID namespace cannot be seen from here: %w", errStranger, os.ErrPermission)
	}
	own, err := os.Stat("/proc/self/ns/user")
	if err != nil {
		return err
	}
	other, err := os.Stat(fmt.Sprintf("/proc/%d/ns/user", pid))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
		return errNobody // it has ended
	case err != nil:
		return fmt.Errorf("%w: %w", errStranger, err)
	case !os.SameFile(own, other):
		return fmt.Errorf("%w: process %d is in another user namespace, as those are that run in images: %w", errStranger, pid, os.ErrPermission)
	}
	return nil
}

// cloneFUSE returns another descriptor of the same connection: a request that is in progress on one is no concern of the
// others, and ends with it.
func cloneFUSE(dev *os.File) (*os.File, error) {
	// Not by os.OpenFile, which would have the poller watch it: every request would wake that.
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", dev.Fd()), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	clone := os.NewFile(uintptr(fd), dev.Name())
	const fuseDevIocClone = 0x8004e500 // _IOR(229, 0, uint32_t)
	session := uint32(dev.Fd())
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, clone.Fd(), fuseDevIocClone, uintptr(unsafe.Pointer(&session))); errno != 0 {
		clone.Close()
		return nil, os.NewSyscallError("ioctl", errno)
	}
	return clone, nil
}

// membership is that of a process in a session that another leads.
type membership struct {
	shared
	conn *os.File // the leader sees it closed when this process ends
	key  string   // of the session
}

func (m *membership) close() {
	m.conn.Close()
	m.shared.close()
}

// errNobody says that nobody leads a session.
var errNobody = errors.New("nobody leads the session")

// ask asks the leader who listens at a socket of the given name, and who has to lead what is wanted: a key or an alias.
func (s *session) ask(ctx context.Context, name, wanted string, private bool) (*membership, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	conn := os.NewFile(uintptr(fd), name)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: s.path(name)}); err != nil {
		conn.Close()
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EAGAIN): // EAGAIN: too many at once
			return nil, errNobody
		}
		return nil, s.fail(name, err)
	}
	m := &membership{conn: conn}
	err = checkPeer(conn)
	if err == nil {
		err = m.receive(ctx, wanted, private)
	}
	if err != nil {
		m.close()
		if errors.Is(err, errStranger) {
			return nil, s.fail(name, err)
		}
		if errors.Is(err, errNoDescriptor) || errors.Is(err, unix.ECONNRESET) {
			err = errNobody // it has just left
		}
		return nil, err
	}
	return m, nil
}

// receive takes what the leader sends. Who may write to the directory can have put the socket of one session in the place of
// another one's, so it has to say which it leads.
func (m *membership) receive(ctx context.Context, wanted string, private bool) error {
	var text [1 + 2*keyLength]byte
	n, rights, err := message(ctx, m.conn, text[:])
	if err != nil {
		return err
	}
	files, err := received(rights)
	if err != nil {
		return err
	}
	if n != len(text) && n != 1+keyLength {
		closeFiles(files)
		return errNoDescriptor
	}
	what, alias := text[0], ""
	if m.key = string(text[1 : 1+keyLength]); n == len(text) {
		alias = string(text[1+keyLength:])
	}
	if wanted != m.key && wanted != alias {
		closeFiles(files)
		return fmt.Errorf("%w: it leads another session: %w", errStranger, os.ErrPermission)
	}
	for i, f := range []**os.File{&m.user, &m.mnt, &m.fuse} {
		if what&(1<<i) != 0 && len(files) > 0 {
			*f, files = files[0], files[1:]
		}
	}
	if m.mnt == nil || private != (m.user != nil) || len(files) > 0 {
		closeFiles(files)
		return errNoDescriptor
	}
	return nil
}
