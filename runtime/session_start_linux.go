package runtime

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fork"
)

// openNamespaces opens those that others may join.
func (e *emitter) openNamespaces() {
	if e.userNS() {
		e.add(fork.Open(fork.CWD, "/proc/self/ns/user", unix.O_RDONLY, 0, "nsuser"))
	}
	e.add(fork.Open(fork.CWD, "/proc/self/ns/mnt", unix.O_RDONLY, 0, "nsmnt"))
}

// share hands them over, now that all is mounted, and writes down what those do who join.
func (e *emitter) share() {
	var common bytes.Buffer
	for _, c := range e.calls {
		fmt.Fprintln(&common, c)
	}
	info := e.plan.identity.info
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		fmt.Fprintln(&common, st.Dev, st.Ino)
	}
	if !info.IsDir() {
		fmt.Fprintln(&common, info.Size(), info.ModTime().UnixNano())
	}
	for _, x := range e.plan.extras {
		if st, ok := x.identity.info.Sys().(*syscall.Stat_t); ok {
			fmt.Fprintln(&common, x.name, st.Dev, st.Ino, st.Size, st.Mtim.Nano())
		}
	}
	for _, it := range e.items {
		fmt.Fprintf(&common, "%s %q\n", it.target, it.data)
	}
	// Those who are in the namespaces already must not get at this process while it has other things than they have.
	e.add(fork.NoDump())
	if e.userNS() {
		e.add(fork.SendFD("sync", "nsuser"))
	}
	e.add(fork.SendFD("sync", "nsmnt"))
	e.plan.common = common.Bytes()
	e.guest()
}

// receiveNamespaces takes what share has handed over.
func (p *Plan) receiveNamespaces(ctx context.Context, socket *os.File, held *shared) (err error) {
	if p.joined == nil {
		return nil
	}
	if p.private {
		if held.user, err = receive(ctx, socket); err != nil {
			return err
		}
	}
	held.mnt, err = receive(ctx, socket)
	return err
}

// startIn starts the plan in a session: as a guest, or as its leader.
func (p *Plan) startIn(ctx context.Context, o *StartOptions, executor fork.Executor) (*Process, error) {
	s := &o.Session.session
	n := s.names(p)
	m, lock, err := s.enter(ctx, n.key, p)
	if err != nil {
		return nil, err
	}
	if m != nil {
		return p.startGuest(ctx, o, executor, m)
	}
	led := false
	proc, err := p.startAlone(ctx, o, executor, func(held *shared) error {
		led = true
		return s.lead(n, held, lock)
	})
	if err == nil {
		return proc, nil
	}
	if led {
		s.unlead(n.key)
	} else {
		s.remove(n.key)
		lock.Close()
	}
	return nil, err
}

func (p *Plan) startGuest(ctx context.Context, o *StartOptions, executor fork.Executor, m *membership) (*Process, error) {
	r, err := p.admitted(ctx, o)
	defer r.close()
	if err != nil {
		m.close()
		return nil, err
	}
	if r.files["nsmnt"] = m.mnt; m.user != nil {
		r.files["nsuser"] = m.user
	}
	proc, child, err := launch(p.joined, &fork.Options{Files: r.files, Executor: executor}, nil)
	if err != nil {
		m.close()
		return nil, err
	}
	// From now on: if the leader ends while the command is being executed, somebody has to serve its image.
	o.Session.open.hold()
	p.open.hold()
	go o.Session.follow(&heir{plan: p}, m, proc)
	if err := proc.ready(ctx, child); err != nil {
		return nil, err
	}
	return proc, nil
}

// follow stays in touch with the leader as long as the process runs. When the leader leaves before that, this process
// takes its place, or follows whoever does.
func (s *session) follow(h *heir, m *membership, proc *Process) {
	defer func() {
		_ = s.open.letGo()
		h.close()
	}()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	serves := m.fuse != nil
	go func() {
		prepare := time.NewTimer(settled)
		defer prepare.Stop()
		for {
			select {
			case <-proc.done:
				cancel()
				return
			case <-ctx.Done():
				return
			case <-prepare.C:
				if serves {
					_, _ = h.whole(ctx)
				}
			}
		}
	}()
	names := names{key: m.key, alias: s.alias(h.plan)}
	for {
		stop := context.AfterFunc(ctx, func() { m.conn.Close() })
		_, _ = io.Copy(io.Discard, m.conn)
		stop()
		if ctx.Err() != nil {
			m.close()
			return
		}
		next, lock, err := s.enter(ctx, names.key, h.plan)
		switch {
		case err != nil:
			m.close()
			return
		case next == nil:
			m.conn.Close()
			s.succeed(ctx, h, names, &m.shared, lock)
			return
		case !sameNamespace(next.mnt, m.mnt): // somebody has begun anew
			next.close()
			m.close()
			return
		}
		m.close()
		m = next
	}
}

// succeed leads a session whose leader has gone, and serves the image if nobody else does any more.
func (s *session) succeed(ctx context.Context, h *heir, n names, held *shared, lock *os.File) {
	if dev := held.fuse; dev != nil {
		plan, err := h.whole(ctx)
		if err == nil && s.names(plan).key != n.key {
			err = ErrImageChanged // or something else that it depends on: it would not be the same files that are served
		}
		if err == nil {
			held.fuse, _ = cloneFUSE(dev)
			err = plan.serveDevice(dev, plan.serveTree)
		}
		if err != nil {
			held.close()
			lock.Close()
			return
		}
	}
	_ = s.lead(n, held, lock) // else the next one starts a session of its own
}

// settled is how long a guest has to run until it is worth it to be ready to serve the image.
const settled = time.Second

// heir is who follows a leader and may have to take its place. Its plan may be that of a guest only; the whole one is made when
// that is wanted, or before the host is another: what it was made from has to be what the leader has made its own from.
type heir struct {
	plan *Plan

	mu   sync.Mutex
	made *Plan
	err  error
}

func (h *heir) whole(ctx context.Context) (*Plan, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.plan.calls != nil {
		return h.plan, nil
	}
	if h.made == nil && h.err == nil {
		h.made, h.err = h.plan.complete(ctx)
	}
	return h.made, h.err
}

func (h *heir) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = h.plan.open.letGo()
	if h.made != nil {
		_ = h.made.Close()
	}
}

func sameNamespace(a, b *os.File) bool {
	ai, err := a.Stat()
	bi, err2 := b.Stat()
	return err == nil && err2 == nil && os.SameFile(ai, bi)
}
