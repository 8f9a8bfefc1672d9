package runtime

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// session is the Linux half of Session.
type session struct {
	dir  *os.File
	open *openFiles // dir, which who follows a leader needs
	tag  string
	// patience is how long to wait for a leader.
	patience time.Duration

	mu     sync.Mutex
	leads  map[string]*lead
	closed bool
	// guests counts connections of those who have joined; quiet is closed and replaced when there are none any more.
	guests int
	quiet  chan struct{}
}

const (
	lockSuffix   = ".lock"
	socketSuffix = ".sock"
	aliasSuffix  = ".alias" // a symbolic link to the socket
	maxSweep     = 256
)

// OpenSession returns the session of the given tag in a directory of this node, such as one below /dev/shm, which is made
// if it is missing. Others must have no access to it: its mode has to be 0700 and its owner this user. The tag is any
// string that those who belong together know. Errors are of type *SessionError.
func OpenSession(dir, tag string) (*Session, error) {
	if tag == "" || !filepath.IsAbs(dir) || strings.ContainsRune(dir, 0) {
		return nil, &SessionError{Path: dir, Err: fmt.Errorf("the directory has to be absolute, and the tag %q not empty: %w", tag, fs.ErrInvalid)}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, &SessionError{Path: dir, Err: err}
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &SessionError{Path: dir, Err: err}
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && (int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0) {
		err = fmt.Errorf("it belongs to user %d with mode %#o, not to this user alone: %w", st.Uid, st.Mode&0o777, fs.ErrPermission)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, &SessionError{Path: dir, Err: err}
	}
	f := os.NewFile(uintptr(fd), dir)
	s := &Session{session{
		dir: f, open: newOpenFiles(f.Close), tag: tag, patience: patience, leads: make(map[string]*lead), quiet: make(chan struct{}),
	}}
	s.sweep()
	return s, nil
}

// Wait returns when nobody who has joined depends on this process any more, or with the error of ctx. A process that ends
// earlier leaves the leadership to another.
func (s *Session) Wait(ctx context.Context) error {
	for {
		s.mu.Lock()
		guests, quiet := s.guests, s.quiet
		s.mu.Unlock()
		if guests == 0 {
			return ctx.Err()
		}
		select {
		case <-quiet:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close leaves the session. What this process has started goes on.
func (s *Session) Close() error {
	s.mu.Lock()
	leads, closed := s.leads, s.closed
	s.leads, s.closed = nil, true
	s.mu.Unlock()
	if closed {
		return s.fail("", os.ErrClosed)
	}
	for _, l := range leads {
		l.close()
	}
	return s.open.end()
}

func (s *session) guest(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guests += n; s.guests == 0 {
		close(s.quiet)
		s.quiet = make(chan struct{})
	}
}

// names are those of the files of a session. The key stands for all plans that may share its namespaces. The alias, which can be
// empty, stands for specifications that lead to the same plan without any doubt: it is known to who has not made that.
type names struct{ key, alias string }

func (s *session) names(p *Plan) names { return names{s.hash("plan", p, p.common), s.alias(p)} }

func (s *session) alias(p *Plan) string {
	if p.likeness == nil {
		return ""
	}
	return s.hash("specification", p, p.likeness)
}

// keyLength is that of a hash.
const keyLength = 32

func (s *session) hash(what string, p *Plan, data []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s 2 %d %q %s %d %d\n", what, len(s.tag), s.tag, p.image, p.offset, p.size)
	h.Write(data)
	// A path means the same to those only who see the same mounts: job steps may have a /tmp each.
	for _, name := range []string{"mnt", "user"} {
		link, _ := os.Readlink("/proc/thread-self/ns/" + name)
		fmt.Fprintln(h, link)
	}
	return hex.EncodeToString(h.Sum(nil)[:keyLength/2])
}

// path is a short name for a file of the directory, whatever its own name is: those of sockets are limited.
func (s *session) path(name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", s.dir.Fd(), name)
}

func (s *session) fail(name string, err error) error {
	return &SessionError{Path: filepath.Join(s.dir.Name(), name), Err: err}
}

// lock tries to become the leader. It returns nil if there is one.
func (s *session) lock(key string) (*os.File, error) {
	name := key + lockSuffix
	for {
		fd, err := unix.Openat(int(s.dir.Fd()), name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, s.fail(name, err)
		}
		if err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
			_ = unix.Close(fd)
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, nil
			}
			return nil, s.fail(name, err)
		}
		// A leader who leaves removes the file: then this lock is on one that nobody else will find.
		var own, now unix.Stat_t
		if unix.Fstat(fd, &own) == nil && unix.Fstatat(int(s.dir.Fd()), name, &now, unix.AT_SYMLINK_NOFOLLOW) == nil && own.Ino == now.Ino {
			return os.NewFile(uintptr(fd), name), nil
		}
		_ = unix.Close(fd)
	}
}

func (s *session) files() []string {
	d, err := os.Open(s.path("."))
	if err != nil {
		return nil
	}
	defer d.Close()
	files, _ := d.Readdirnames(maxSweep)
	return files
}

// sweep removes what leaders have left that were killed.
func (s *session) sweep() {
	for _, name := range s.files() {
		key, ok := strings.CutSuffix(name, lockSuffix)
		if !ok {
			continue
		}
		if f, err := s.lock(key); err == nil && f != nil {
			s.remove(key)
			f.Close()
		}
	}
}

// remove removes the files of a session whose lock is held.
func (s *session) remove(key string) {
	for _, name := range s.files() {
		if strings.HasSuffix(name, aliasSuffix) && s.aliasOf(name) == key {
			_ = unix.Unlinkat(int(s.dir.Fd()), name, 0)
		}
	}
	_ = unix.Unlinkat(int(s.dir.Fd()), key+socketSuffix, 0)
	_ = unix.Unlinkat(int(s.dir.Fd()), key+lockSuffix, 0)
}

// aliasOf is the key of the session that an alias leads to.
func (s *session) aliasOf(name string) string {
	var target [keyLength + len(socketSuffix) + 1]byte
	n, err := unix.Readlinkat(int(s.dir.Fd()), name, target[:])
	if err != nil {
		return ""
	}
	key, _ := strings.CutSuffix(string(target[:n]), socketSuffix)
	return key
}

// How long a leader may take until it listens: to mount an image, or to unpack one.
const (
	patience       = time.Minute
	unpackPatience = 30 * time.Minute
)

// errLeader says that somebody holds the lock of a session and does not do what leaders do.
var errLeader = errors.New("the process that leads it does not answer: end it, or use another tag")

// enter joins the session of a plan, or returns the lock by which this process leads it.
func (s *session) enter(ctx context.Context, key string, p *Plan) (*membership, *os.File, error) {
	limit := s.patience
	if p.backend == BackendExtract {
		limit *= unpackPatience / patience
	}
	within, cancel := context.WithTimeoutCause(ctx, limit, errLeader)
	defer cancel()
	m, lock, err := s.tryEnter(within, key, p.private)
	if err != nil && ctx.Err() == nil && within.Err() != nil {
		err = s.fail(key+lockSuffix, errLeader)
	}
	return m, lock, err
}

func (s *session) tryEnter(ctx context.Context, key string, private bool) (*membership, *os.File, error) {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 5*time.Millisecond) {
		m, err := s.ask(ctx, key+socketSuffix, key, private)
		if err == nil || !errors.Is(err, errNobody) {
			return m, nil, err
		}
		lock, err := s.lock(key)
		if err != nil || lock != nil {
			return nil, lock, err
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(wait): // for the leader, who is about to listen
		}
	}
}
