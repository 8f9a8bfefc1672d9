package mount

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// reopen returns a second descriptor of a file.
func reopen(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "fcntl F_DUPFD_CLOEXEC", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// mountSquashfuse starts squashfuse_ll, which goes into the background when it has mounted.
func mountSquashfuse(ctx context.Context, f *os.File, target string, o *ImageOptions, thisFile bool) error {
	program, err := exec.LookPath(cmp.Or(o.Squashfuse, "squashfuse_ll"))
	if err != nil {
		return err
	}
	options := fmt.Sprintf("ro,nosuid,nodev,offset=%d", o.Offset)
	if o.AllowOther || os.Geteuid() == 0 {
		options += ",allow_other"
	}
	path, err := filepath.Abs(f.Name())
	if err != nil {
		return err
	}
	if thisFile {
		path = "/proc/self/fd/3"
	}
	var text bytes.Buffer
	cmd := exec.CommandContext(ctx, program, "-o", options, path, target)
	if thisFile {
		cmd.ExtraFiles = []*os.File{f}
	}
	cmd.Stderr = &limitedWriter{w: &text, n: 4096}
	cmd.WaitDelay = time.Second // the server keeps standard error
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(text.String()))
	}
	return nil
}
