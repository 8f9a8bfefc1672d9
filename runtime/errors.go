package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"syscall"
)

// ErrImageChanged says that the image is not the file any more for which the plan was made.
var ErrImageChanged = errors.New("the image has changed since the plan was made")

// SetupError is a system call of a plan that failed, before the command was executed or in executing it.
type SetupError struct {
	// Index is the number of the call in the plan, and Call the call as Plan.String prints it.
	Index int
	Call  string
	// Exec says that all was set up, and the command could not be executed.
	Exec bool
	// Advice says what an administrator or the user can do where the host forbids the call; empty if that is not known.
	Advice string
	// Err is an *fs.PathError where the call concerns a file.
	Err error
}

func (e *SetupError) Error() string {
	if e.Exec {
		return fmt.Sprintf("runtime: %v", e.Err)
	}
	text := fmt.Sprintf("runtime: %v (call %d: %s)", e.Err, e.Index, e.Call)
	if e.Advice != "" {
		text += ": " + e.Advice
	}
	return text
}

func (e *SetupError) Unwrap() error { return e.Err }

// BindError is a bind or another mount that cannot be made.
type BindError struct {
	// Source is a path of the host, Target one in the image.
	Source, Target string
	Err            error
}

func (e *BindError) Error() string {
	if e.Source == "" {
		return fmt.Sprintf("runtime: mount at %s: %v", e.Target, e.Err)
	}
	return fmt.Sprintf("runtime: bind %s at %s: %v", e.Source, e.Target, e.Err)
}

func (e *BindError) Unwrap() error { return e.Err }

// MemoryError says that an image does not fit into memory.
type MemoryError struct {
	// Need is the size of the unpacked image, Have the memory available, in bytes.
	Need, Have int64
}

func (e *MemoryError) Error() string {
	return fmt.Sprintf("runtime: unpacking the image into memory takes %d MiB, %d MiB are available: give a directory on disk, or run on a host that can mount the image",
		e.Need>>20, e.Have>>20)
}

// Is makes it one of the errors that mean "no space".
func (e *MemoryError) Is(target error) bool {
	return target == syscall.ENOSPC || target == syscall.ENOMEM
}

// Exit codes of a command line tool for commands that did not get to run.
const (
	ExitSetup         = 125
	ExitNotExecutable = 126
	ExitNotFound      = 127
)

// ExitCode is the exit code that a shell would report: 0 for nil, the command's own for an *exec.ExitError (128 and the
// number of the signal that killed it), else one of ExitSetup, ExitNotExecutable and ExitNotFound.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		if status, ok := e.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal())
		}
		return e.ExitCode()
	}
	if e, ok := errors.AsType[*SetupError](err); ok && e.Exec {
		if errors.Is(e, fs.ErrNotExist) {
			return ExitNotFound
		}
		return ExitNotExecutable
	}
	return ExitSetup
}
