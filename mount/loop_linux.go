package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	loopControl = "/dev/loop-control"
	loopTries   = 64
)

// Loop binds the image in f to a free loop device: read-only, and cleared by the kernel when nobody uses it any more. The
// file may be closed afterwards. Nil options mean that the whole file is the image.
func Loop(ctx context.Context, f *os.File, o *Options) (*LoopDevice, error) {
	offset, size, err := extent(f, o)
	if err != nil {
		return nil, err
	}
	if o != nil && o.Admit != nil {
		if err := o.Admit(ctx, f, offset, size); err != nil {
			return nil, err
		}
	}
	control, err := os.OpenFile(loopControl, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	config := &unix.LoopConfig{Fd: uint32(f.Fd())}
	config.Info.Offset, config.Info.Sizelimit = uint64(offset), uint64(size)
	config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
	copy(config.Info.File_name[:len(config.Info.File_name)-1], f.Name())
	defer runtime.KeepAlive(f)
	for try := range loopTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, &fs.PathError{Op: "ioctl LOOP_CTL_GET_FREE", Path: loopControl, Err: err}
		}
		d, err := bind(fmt.Sprintf("/dev/loop%d", n), config)
		if err == nil {
			return d, nil
		}
		// Somebody else was quicker. The node of a new device may lag behind the device.
		if !errors.Is(err, unix.EBUSY) && !(errors.Is(err, fs.ErrNotExist) && try < loopTries/4) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Duration(try) * time.Millisecond):
		}
	}
	return nil, &fs.PathError{Op: "loop", Path: f.Name(), Err: unix.EBUSY}
}

func bind(device string, config *unix.LoopConfig) (*LoopDevice, error) {
	f, err := os.OpenFile(device, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	fd := int(f.Fd())
	err = unix.IoctlLoopConfigure(fd, config)
	if err == nil {
		return &LoopDevice{f: f}, nil
	}
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTTY) {
		f.Close()
		return nil, &fs.PathError{Op: "ioctl LOOP_CONFIGURE", Path: device, Err: err}
	}
	// Before 5.8: two steps, between which the device shows the whole file.
	if err := unix.IoctlSetInt(fd, unix.LOOP_SET_FD, int(config.Fd)); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "ioctl LOOP_SET_FD", Path: device, Err: err}
	}
	if err := unix.IoctlLoopSetStatus64(fd, &config.Info); err != nil {
		_ = unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0)
		f.Close()
		return nil, &fs.PathError{Op: "ioctl LOOP_SET_STATUS64", Path: device, Err: err}
	}
	return &LoopDevice{f: f}, nil
}
