package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fork"
	"hpcimg/squashfs"
)

// A temporary directory, closed to others, and the unpacked image in it: what it holds may be open to everybody, set-id programs included.
const (
	extractPattern = "hpcimg-*"
	extractRoot    = "root"
)

// unpack extracts the image of the plan into the directory root. What has been written to meanwhile is none of anybody's
// images.
func (p *Plan) unpack(ctx context.Context, root *os.Root) error {
	r, err := squashfs.NewReader(io.NewSectionReader(p.file, p.offset, p.size), p.size, nil)
	if err != nil {
		return err
	}
	// Only the caller's own ids have a meaning in the namespace, and devices none: the mount is nodev.
	_, err = squashfs.Extract(ctx, r, root, &squashfs.ExtractOptions{
		NoOwner: os.Geteuid() != 0, NoXattrs: os.Geteuid() != 0, NoDevices: true, MaxBytes: p.tmpfsSize, MaxEntries: p.tmpfsInodes,
	})
	if err != nil {
		return err
	}
	// A child that was forked meanwhile may have copies of descriptors for writing, and a program that anybody has open
	// for writing cannot be executed.
	fork.Barrier()
	return p.unwritten()
}

// serve does for the child what it cannot do itself, in the order in which it asks.
func (p *Plan) serve(ctx context.Context, proc *Process, r *resources, held *shared) error {
	socket := r.parent
	if p.idMaps[users] != nil {
		if err := p.applyMaps(ctx, proc.pid, socket); err != nil {
			return err
		}
	}
	if p.compares {
		if err := p.compare(ctx, socket, r.dir); err != nil {
			return err
		}
	}
	if p.served() {
		if err := p.serveFUSE(ctx, r, held); err != nil {
			return err
		}
	}
	if p.backend == BackendSquashfuse {
		if err := p.haveServed(ctx, socket, proc); err != nil {
			return err
		}
	}
	if p.backend == BackendExtract && p.extractDir == "" {
		if err := p.fill(ctx, socket); err != nil {
			return err
		}
	}
	return p.receiveNamespaces(ctx, socket, held)
}

// fill waits for the descriptor of the child's tmpfs, fills it, and lets the child go on.
func (p *Plan) fill(ctx context.Context, socket *os.File) error {
	dir, err := receive(ctx, socket)
	if err != nil {
		return err
	}
	defer dir.Close()
	// A name that leads to the descriptor, and nowhere else.
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err != nil {
		return err
	}
	defer root.Close()
	if err := p.unpack(ctx, root); err != nil {
		return fmt.Errorf("unpack the image into memory: %w", err)
	}
	return goOn(socket)
}

// goOn lets the child go on. One that does not listen any more has failed, and its own error is the better one.
func goOn(socket *os.File) error {
	_, err := socket.Write([]byte{0})
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return errNoDescriptor
	}
	return err
}

// errNoDescriptor: the child has failed before it had anything to send; its own error is the better one.
var errNoDescriptor = errors.New("the child sent no descriptor")

func receive(ctx context.Context, socket *os.File) (*os.File, error) {
	_, rights, err := message(ctx, socket, make([]byte, 1))
	if err != nil {
		return nil, err
	}
	files, err := received(rights)
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		closeFiles(files)
		return nil, errNoDescriptor
	}
	return files[0], nil
}

// received returns the descriptors of a control message.
func received(rights []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return nil, errNoDescriptor
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, errNoDescriptor
	}
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		files[i] = os.NewFile(uintptr(fd), "received")
	}
	return files, nil
}

// await waits for a byte without a descriptor.
func await(ctx context.Context, socket *os.File) error {
	_, _, err := message(ctx, socket, make([]byte, 1))
	return err
}

// message takes at least one byte from a socket, and the descriptors that come with it.
func message(ctx context.Context, socket *os.File, text []byte) (n int, control []byte, err error) {
	conn, err := socket.SyscallConn()
	if err != nil {
		return 0, nil, err
	}
	// Closing it ends the wait.
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	defer stop()
	const most = 4
	var oobn, flags int
	oob := make([]byte, unix.CmsgSpace(4*most))
	var recvErr error
	err = conn.Read(func(fd uintptr) bool {
		n, oobn, flags, _, recvErr = unix.Recvmsg(int(fd), text, oob, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(recvErr, unix.EAGAIN) && !errors.Is(recvErr, unix.EINTR)
	})
	switch err = errors.Join(err, recvErr); {
	case ctx.Err() != nil:
		err = ctx.Err()
	case err == nil && n < 1, errors.Is(err, unix.ECONNRESET): // which is the end for who has not read all that was written to it
		err = errNoDescriptor
	case err == nil && flags&unix.MSG_CTRUNC != 0 && oobn < len(oob): // there was room here, but not for more descriptors of this process
		err = os.NewSyscallError("recvmsg", unix.EMFILE)
	}
	if err == nil {
		return n, oob[:oobn], nil
	}
	if files, parseErr := received(oob[:max(0, oobn)]); parseErr == nil {
		closeFiles(files)
	}
	return 0, nil, err
}

// unpackOnDisk extracts the image into a directory in a new one, which it opens, and returns a function that removes both.
func (p *Plan) unpackOnDisk(ctx context.Context) (dir string, opened *os.File, remove func(), err error) {
	temp, err := os.MkdirTemp(p.extractDir, extractPattern)
	if err != nil {
		return "", nil, nil, err
	}
	remove = func() { removeAll(temp) }
	if opened, err = p.unpackInto(ctx, temp); err != nil {
		remove()
		return "", nil, nil, fmt.Errorf("unpack the image into %s: %w", p.extractDir, err)
	}
	return filepath.Join(temp, extractRoot), opened, remove, nil
}

// unpackInto makes the directory for the image in temp. Where others may rename what is not theirs, temp could be theirs by now.
func (p *Plan) unpackInto(ctx context.Context, temp string) (*os.File, error) {
	outer, err := os.OpenRoot(temp)
	if err != nil {
		return nil, err
	}
	defer outer.Close()
	info, err := outer.Stat(".")
	if err != nil {
		return nil, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return nil, &fs.PathError{Op: "open", Path: temp, Err: fmt.Errorf("replaced by others: %w", fs.ErrPermission)}
	}
	if err := outer.Mkdir(extractRoot, 0o700); err != nil {
		return nil, err
	}
	root, err := outer.OpenRoot(extractRoot)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	opened, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	if err = p.unpack(ctx, root); err == nil {
		err = opened.Chmod(0o755) // for those who the command may become
	}
	if err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	return opened, nil
}

// removeAll removes a tree in which there may be directories that their owner may not write to.
func removeAll(dir string) {
	if os.RemoveAll(dir) == nil {
		return
	}
	if root, err := os.OpenRoot(dir); err == nil { // in which no link leads out
		_ = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				_ = root.Chmod(name, 0o700)
			}
			return nil
		})
		_ = root.Close()
	}
	_ = os.RemoveAll(dir)
}
