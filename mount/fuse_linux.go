package mount

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"hpcimg/squashfs"
)

// fuseType is what mount(8) shows of our mounts.
const fuseType = "fuse.hpcimg"

// Fuse mounts the image in the file at path on the directory target and serves it from this process: read-only, nosuid,
// nodev. Root mounts it itself and for all users; others through fusermount3, for themselves. It returns when the image is
// mounted; the server works until the mount is gone: Server.Close removes it, [Unmount] and umount(8) do too.
//
// If the process is killed, a mount that fusermount3 has made is removed by a shell that waits for that; one of root stays,
// and fails with ENOTCONN, until it is removed. Nil options are the defaults.
func Fuse(ctx context.Context, path, target string, o *FuseOptions) (*Server, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	s, err := FuseFile(ctx, f, target, o)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

// FuseFile is Fuse with an open file, which belongs to the server from then on if there is no error.
func FuseFile(ctx context.Context, f *os.File, target string, o *FuseOptions) (*Server, error) {
	if o == nil {
		o = &FuseOptions{}
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := cmp.Or(o.Size, st.Size()-o.Offset)
	if o.Offset < 0 || size < 0 || o.Offset > st.Size() || size > st.Size()-o.Offset {
		return nil, &fs.PathError{Op: "fuse", Path: f.Name(), Err: fmt.Errorf("%d bytes at %d in a file of %d: %w", size, o.Offset, st.Size(), fs.ErrInvalid)}
	}
	reader, err := squashfs.NewReader(io.NewSectionReader(f, o.Offset, size), size, nil)
	if err != nil {
		return nil, &fs.PathError{Op: "fuse", Path: f.Name(), Err: err}
	}
	// The program may change its directory before it unmounts, and no link is followed then, nor by fusermount3.
	if target, err = filepath.Abs(target); err != nil {
		return nil, err
	}
	if resolved, err := filepath.EvalSymlinks(target); err == nil {
		target = resolved
	}
	dev, own, err := openMount(ctx, f.Name(), target, o)
	if err != nil {
		return nil, err
	}
	own.image = f
	s, err := serveOwn(dev, NewTree(reader, o.Tree), o.Serve, own)
	if err != nil {
		own.image = nil // still the caller's
		return nil, errors.Join(err, own.unmount(), own.ended())
	}
	return s, nil
}

// openMount mounts a file system that nobody serves yet, and returns the device and the way back.
func openMount(ctx context.Context, source, target string, o *FuseOptions) (*os.File, *ownMount, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if os.Geteuid() != 0 || o.Helper != "" {
		dev, own, err := helperMount(ctx, source, target, o)
		if accessErr := unix.Access(fuseDevice, unix.R_OK|unix.W_OK); err != nil && accessErr != nil {
			err = fmt.Errorf("%w (%s)", err, fuseRemedy(accessErr))
		}
		return dev, own, err
	}
	dev, err := os.OpenFile(fuseDevice, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	data := FuseData(int(dev.Fd()), 0, 0)
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount(source, target, fuseType, flags, data); err != nil {
		return nil, nil, errors.Join(&fs.PathError{Op: "mount", Path: target, Err: err}, dev.Close())
	}
	return dev, &ownMount{unmount: func() error { return detach(target) }}, nil
}

// ownMount is a mount of ours and what goes with it.
type ownMount struct {
	unmount func() error
	image   *os.File
	watcher *os.File // to be told of an orderly end; may be nil
}

// ended is called when the server is done.
func (m *ownMount) ended() (err error) {
	if m.watcher != nil {
		_, err = m.watcher.WriteString("done\n")
		err = errors.Join(err, m.watcher.Close())
	}
	if m.image != nil {
		err = errors.Join(err, m.image.Close())
	}
	return err
}

const fuseDevice = "/dev/fuse"

func detach(target string) error {
	err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) { // it is gone already
		return &fs.PathError{Op: "umount", Path: target, Err: err}
	}
	return nil
}

// helperMount asks fusermount3, which is set-uid root, for a mount.
func helperMount(ctx context.Context, source, target string, o *FuseOptions) (_ *os.File, _ *ownMount, err error) {
	program, err := exec.LookPath(cmp.Or(o.Helper, "fusermount3"))
	if err != nil {
		return nil, nil, fmt.Errorf("an ordinary user mounts with fusermount3, of the package fuse3: %w", err)
	}
	watcher, err := watch(program, target)
	if err != nil {
		return nil, nil, err
	}
	own := &ownMount{watcher: watcher, unmount: func() error { return helperUnmount(program, target, true) }}
	dev, err := requestMount(ctx, program, source, target, o)
	if err != nil {
		if ctx.Err() != nil {
			_ = own.unmount() // it may have come so far
		}
		return nil, nil, errors.Join(err, own.ended())
	}
	return dev, own, nil
}

// watch starts a shell that unmounts target when this process ends without having said so, killed or not. (The helper has
// an option for that, which works only for mounts that root may look into.)
func watch(program, target string) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command("/bin/sh", "-c", `read -r line || exec "$0" -u -z -q -- "$1"`, program, target)
	cmd.Stdin, cmd.Env, cmd.Dir = r, []string{}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what ends the process group of this one is for it to survive
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	go func() { _ = cmd.Wait() }()
	return w, nil
}

// requestMount has the helper mount, and receives the device from it.
func requestMount(ctx context.Context, program, source, target string, o *FuseOptions) (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "fusermount3"), os.NewFile(uintptr(pair[1]), "fusermount3")
	defer theirs.Close()
	options := "ro,nosuid,nodev,default_permissions,subtype=hpcimg,fsname=" + escapeOption(source)
	if o.AllowOther {
		options += ",allow_other"
	}
	var text bytes.Buffer
	cmd := exec.Command(program, "-o", options, "--", target)
	cmd.Env = []string{"_FUSE_COMMFD=3"} // what it does as root is no business of the environment
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = &limitedWriter{w: &text, n: 4096}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	_ = theirs.Close()
	stop := context.AfterFunc(ctx, func() { _ = unix.Shutdown(pair[0], unix.SHUT_RDWR) })
	dev, err := receiveFile(pair[0])
	stop()
	if err != nil {
		_ = ours.Close()
		_ = cmd.Wait()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if message := strings.TrimSpace(text.String()); message != "" {
			err = errors.New(message)
		}
		return nil, &fs.PathError{Op: "fusermount3", Path: target, Err: err}
	}
	return dev, errors.Join(cmd.Wait(), ours.Close())
}

// escapeOption escapes what separates options.
func escapeOption(s string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(s)
}

// limitedWriter drops what is too much.
type limitedWriter struct {
	w io.Writer
	n int
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	k := min(len(p), l.n)
	l.n -= k
	_, err := l.w.Write(p[:k])
	return len(p), err
}

// receiveFile takes one descriptor from a socket.
func receiveFile(socket int) (*os.File, error) {
	var data [16]byte
	oob := make([]byte, unix.CmsgSpace(4*4))
	_, n, _, _, err := unix.Recvmsg(socket, data[:], oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	var fds []int
	for i := range messages {
		more, err := unix.ParseUnixRights(&messages[i])
		if err == nil {
			fds = append(fds, more...)
		}
	}
	if len(fds) != 1 {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return nil, errors.New("no device was handed over")
	}
	return os.NewFile(uintptr(fds[0]), fuseDevice), nil
}
