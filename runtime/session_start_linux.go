package runtime

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"syscall"

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
	join := &emitter{compiler: e.compiler, stage: e.stage}
	// Those who are in the namespaces already must not get at this process while it has other things than they have.
	e.add(fork.NoDump())
	join.add(fork.PDeathSig(), fork.ParentAlive(), fork.NoDump())
	if e.userNS() {
		e.add(fork.SendFD("sync", "nsuser"))
		join.add(fork.Setns("nsuser", unix.CLONE_NEWUSER))
	}
	e.add(fork.SendFD("sync", "nsmnt"))
	join.add(fork.Setns("nsmnt", unix.CLONE_NEWNS))
	join.finish()
	e.plan.joined, e.plan.common, e.plan.private = join.calls, common.Bytes(), e.userNS()
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
	key := s.key(p)
	m, lock, err := s.enter(ctx, key, p)
	if err != nil {
		return nil, err
	}
	if m != nil {
		return p.startGuest(ctx, o, executor, m)
	}
	led := false
	proc, err := p.startAlone(ctx, o, executor, func(held *shared) error {
		led = true
		return s.lead(key, held, lock)
	})
	if err == nil {
		return proc, nil
	}
	if led {
		s.unlead(key)
	} else {
		s.remove(key)
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
	go o.Session.follow(p, m, proc)
	if err := proc.ready(ctx, child); err != nil {
		return nil, err
	}
	return proc, nil
}

// follow stays in touch with the leader as long as the process runs. When the leader leaves before that, this process
// takes its place, or follows whoever does.
func (s *session) follow(p *Plan, m *membership, proc *Process) {
	defer func() {
		_ = s.open.letGo()
		_ = p.open.letGo()
	}()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-proc.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		stop := context.AfterFunc(ctx, func() { m.conn.Close() })
		_, _ = io.Copy(io.Discard, m.conn)
		stop()
		if ctx.Err() != nil {
			m.close()
			return
		}
		next, lock, err := s.enter(ctx, s.key(p), p)
		switch {
		case err != nil:
			m.close()
			return
		case next == nil:
			m.conn.Close()
			p.succeed(s, &m.shared, lock)
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
func (p *Plan) succeed(s *session, held *shared, lock *os.File) {
	if dev := held.fuse; dev != nil {
		held.fuse, _ = cloneFUSE(dev)
		if err := p.serveDevice(dev); err != nil {
			held.close()
			lock.Close()
			return
		}
	}
	_ = s.lead(s.key(p), held, lock) // else the next one starts a session of its own
}

func sameNamespace(a, b *os.File) bool {
	ai, err := a.Stat()
	bi, err2 := b.Stat()
	return err == nil && err2 == nil && os.SameFile(ai, bi)
}
