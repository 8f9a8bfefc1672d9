package runtime

import (
	"context"
	"os"
	"time"

	"hpcimg/internal/squashfuse"
)

// haveServed waits for the device, and has squashfuse_ll answer on it for the image.
func (p *Plan) haveServed(ctx context.Context, socket *os.File, proc *Process) error {
	dev, err := receive(ctx, socket)
	if err != nil {
		return err
	}
	defer dev.Close() // the server has the only one: its end is that of the mount
	o := &squashfuse.Options{Device: dev, Image: p.file, Offset: p.offset}
	if p.owner != nil {
		uid, gid := p.owner(nobody, nobody)
		o.UID, o.GID = int(uid), int(gid)
	}
	server, err := p.squashfuse.Start(o)
	if err == nil {
		proc.server.Store(server)
	}
	return err
}

// nobody is a user that no namespace of a command has.
const nobody = ^uint32(0)

// serverPatience is how long to wait for the end of a server whose mount has gone, or has failed.
const serverPatience = 100 * time.Millisecond

// served is what squashfuse_ll has failed with, if it has: who used what it served has failed then, for want of it.
func (p *Process) served() error {
	server := p.server.Load()
	if server == nil {
		return nil
	}
	select {
	case <-server.Done():
		return server.Wait()
	case <-time.After(serverPatience):
		return nil // others use it
	}
}

// abandon ends a process that has not come to run its command.
func (p *Process) abandon() {
	_ = p.Kill()
	if server := p.server.Load(); server != nil {
		go func() {
			select {
			case <-p.done:
			case <-time.After(serverPatience):
				server.Kill() // it does not answer, and before that nothing ends who asks
			}
		}()
	}
	_, _ = p.Wait()
}
