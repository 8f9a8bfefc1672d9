package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

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
	return p.unchanged()
}

// serve waits for the descriptor of the child's tmpfs, fills it, and lets the child go on.
func (p *Plan) serve(ctx context.Context, socket *os.File) error {
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
	_, err = socket.Write([]byte{0})
	return err
}

// errNoDescriptor: the child has failed before it had anything to send; its own error is the better one.
var errNoDescriptor = errors.New("the child sent no descriptor")

func receive(ctx context.Context, socket *os.File) (*os.File, error) {
	conn, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	// Closing it ends the wait.
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	defer stop()
	var n, oobn int
	oob := make([]byte, unix.CmsgSpace(4))
	var recvErr error
	err = conn.Read(func(fd uintptr) bool {
		n, oobn, _, _, recvErr = unix.Recvmsg(int(fd), make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(recvErr, unix.EAGAIN) && !errors.Is(recvErr, unix.EINTR)
	})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err = errors.Join(err, recvErr); err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || n != 1 || len(messages) != 1 {
		return nil, errNoDescriptor
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errNoDescriptor
	}
	return os.NewFile(uintptr(fds[0]), "image"), nil
}

// unpackOnDisk extracts the image into a directory in a new one, and returns a function that removes both.
func (p *Plan) unpackOnDisk(ctx context.Context) (dir string, remove func(), err error) {
	temp, err := os.MkdirTemp(p.extractDir, extractPattern)
	if err != nil {
		return "", nil, err
	}
	remove = func() { removeAll(temp) }
	dir = filepath.Join(temp, extractRoot)
	if err = os.Mkdir(dir, 0o700); err == nil {
		err = p.unpackInto(ctx, dir)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755) // for those who the command may become
	}
	if err != nil {
		remove()
		return "", nil, fmt.Errorf("unpack the image into %s: %w", p.extractDir, err)
	}
	return dir, remove, nil
}

func (p *Plan) unpackInto(ctx context.Context, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return p.unpack(ctx, root)
}

// removeAll removes a tree in which there may be directories that their owner may not write to.
func removeAll(dir string) {
	if os.RemoveAll(dir) == nil {
		return
	}
	_ = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(name, 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}
